"""A run that only writes its curve: python fake_run.py FOLDER URI FIRST LAST SECONDS.

Records two metrics at each step, SECONDS apart; the longest time that one step took is left in FOLDER/slowest.
Does not end while there is a file FOLDER/wait.
"""

import logging
import sys
import time
from pathlib import Path

from tnt_exp.run_folder import RunFolder
from tnt_exp.tracking import tracker as module
from tnt_exp.tracking.tracker import Tracker

module._FINISH_GRACE["FINISHED"] = 6.0  # seconds instead of 30: tests wait for it

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path, uri, first, last, pause = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:5]), float(sys.argv[5])
    folder = RunFolder(path)
    (path / "config.yaml").write_text("model:\n  depth: 3\nseed: 0\n")
    result = {}
    tracker = Tracker.open(path, uri, "talk", path.name, {}, result)
    slowest = 0.0
    for step in range(first, last + 1):
        begin = time.perf_counter()
        folder.append_metrics({"epoch": step, "train/loss": 1 / step, "val/loss": 2 / step, "time": time.time()})
        slowest = max(slowest, time.perf_counter() - begin)
        time.sleep(pause)
    (path / "slowest").write_text(str(slowest))
    while (path / "wait").exists():
        time.sleep(0.1)
    (path / "plots/plot.txt").write_text("a plot")
    result |= {"status": "FINISHED"}
    folder.write_result(result)
    tracker.finish()
