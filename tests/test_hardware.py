"""What a process knows of itself and its machine."""

import subprocess
import sys
import time

PROGRAM = """
import time
from tnt_exp.hardware import seconds_since_start
time.sleep(0.3)
print(seconds_since_start())
"""


def test_seconds_since_start_are_those_of_the_process() -> None:
    begin = time.monotonic()
    process = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert 0.3 <= float(process.stdout) <= time.monotonic() - begin + 0.02  # Linux counts hundredths
