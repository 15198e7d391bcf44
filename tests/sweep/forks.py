"""A server whose forks do what their arguments say, without a backend: python forks.py BACKEND CONNECTION."""

import os
import signal
import sys
import time
from pathlib import Path

from tnt_exp.sweeps import fork_server


def main(connection: str) -> int:
    signal.signal(signal.SIGUSR1, lambda number, frame: sys.exit(75))
    request = fork_server.serve(int(connection))
    if request is None:
        return 0
    what, *rest = request["arguments"]
    match what:
        case "print":
            print(os.environ.get("FORK"), Path.cwd(), os.getsid(0) == os.getpid(), *rest, flush=True)
        case "fail":
            raise ValueError("broken")
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "sleep":
            time.sleep(float(rest[0]) if rest else 600)
    return len(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[2]))
