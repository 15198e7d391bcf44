"""A few lives of runs, the same in every run of the tests; `make lives` walks hundreds at random."""

import subprocess
import sys
from pathlib import Path


def test_folder_mlflow_and_terminal_agree_whatever_happens() -> None:
    program = Path(__file__).with_name("lives.py")
    done = subprocess.run(
        [sys.executable, str(program), "--lives", "3", "--real", "0", "--same"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'lives': 3" in done.stdout
