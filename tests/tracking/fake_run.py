"""A run that only talks: python fake_run.py FOLDER URI FIRST LAST SECONDS.

Logs two metrics at each step, SECONDS apart; the longest time that one step took is left in FOLDER/slowest.
Does not end while there is a file FOLDER/wait.
"""

import logging
import sys
import time
from pathlib import Path

from tnt_exp.tracking import Tracker

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder, uri, first, last, pause = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), float(sys.argv[5])
    tracker = Tracker.open(folder, uri, "talk", folder.name, {"run_folder": str(folder)})
    tracker.params({"model.depth": 3})
    slowest = 0.0
    for step in range(first, last + 1):
        begin = time.perf_counter()
        tracker.metrics({"train/loss": 1 / step, "val/loss": 2 / step}, step)
        slowest = max(slowest, time.perf_counter() - begin)
        time.sleep(pause)
    (folder / "slowest").write_text(str(slowest))
    while (folder / "wait").exists():
        time.sleep(0.1)
    tracker.artifacts(["slowest"])
    tracker.finish("FINISHED")
