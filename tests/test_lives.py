"""A few random lives of runs; `make lives` walks hundreds."""

import subprocess
import sys
from pathlib import Path


def test_folder_mlflow_and_terminal_agree_whatever_happens() -> None:
    program = Path(__file__).with_name("lives.py")
    done = subprocess.run(
        [sys.executable, str(program), "--lives", "3", "--real", "0"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'lives': 3" in done.stdout
