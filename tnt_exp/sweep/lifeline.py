"""A job dies with the process that started it, however that one ended."""

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def hold() -> None:
    """End this process and its children when the supervisor is gone.

    Two ways, since each has a gap. Linux kills this process when the thread that started it ends, at once, but not
    its children. And the other end of standard input is held by the supervisor alone: the kernel closes it when that
    one ends, and a thread here then ends the whole process group (a job leads one of its own). That thread has to
    wait while native code keeps Python's lock, seconds where TensorFlow is imported or traced.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # A supervisor that was gone before this line has closed the pipe: the thread sees it.
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
