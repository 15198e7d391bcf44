"""A job dies with the process that started it, however that one ended."""

import os
import signal
import sys
import threading


def hold() -> None:
    """End this process and its children when standard input closes.

    The other end of the pipe is held by the supervisor alone, and the kernel closes it when that one ends, by
    SIGKILL too. What it started is ended with it: a job leads a process group of its own.
    """
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
