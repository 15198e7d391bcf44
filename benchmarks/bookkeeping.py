"""What tracking and checkpoints cost: the digits run at its default settings, with both and with neither.

    python benchmarks/bookkeeping.py

The two of a pair run at the same time, each on a core of its own, and change places twice a second: what else the
machine does meets both, and neither has the better core. One after the other, two runs without any difference are 10 %
apart on a shared machine. On one core nothing hides, either: what a thread in the background takes, training lacks.
Both wait for each other after the first epoch (the first step compiles); compared is the time from there to the end of
training, the last checkpoint written: seconds by the clock, and CPU seconds of the whole process. The CPU seconds of
the bookkeeping itself are counted, too: of its threads, and of the loop's calls to it. Prints medians and quartiles,
and writes everything to benchmarks/results/bookkeeping.json. Needs Linux and two cores.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve()
SIDES = ("with", "without")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--output", type=Path, default=HERE.parent / "results" / "bookkeeping.json")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        return work(options.worker)
    pairs = []
    for number in range(options.pairs):
        pairs.append(pair(SIDES if number % 2 == 0 else SIDES[::-1]))
        print(f"pair {number + 1}: {json.dumps(pairs[-1])}", flush=True)
    result = {"python": platform.python_version(), "cores": psutil.cpu_count(), "pairs": pairs, **summary(pairs)}
    print(json.dumps(summary(pairs), indent=2))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def pair(sides: Sequence[str]) -> dict[str, dict[str, float]]:
    """Both at once, each in a folder of its own and on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / side for side in sides]
        running = []
        for core, place in zip(cores, places, strict=True):
            place.mkdir()
            command = ["taskset", "--cpu-list", str(core), sys.executable, str(HERE), "--worker", place.name]
            with (place / "log").open("w") as log:
                running.append(subprocess.Popen(command, cwd=place, stdout=log, stderr=subprocess.STDOUT))
        while any(process.poll() is None for process in running):
            time.sleep(0.5)
            cores.reverse()
            for core, process in zip(cores, running, strict=True):
                move(process.pid, core)
        for process, place in zip(running, places, strict=True):
            if process.returncode:
                raise RuntimeError((place / "log").read_text())
        return {place.name: json.loads((place / "measured.json").read_text()) for place in places}


def move(process: int, core: int) -> None:
    """All threads of a process to a core."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it, or a thread of it, has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


def summary(pairs: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians and quartiles of what the bookkeeping adds, in percent."""
    added = {
        name: [100 * (pair["with"][key] / pair["without"][key] - 1) for pair in pairs]
        for name, key in (("clock", "seconds"), ("cpu", "cpu_seconds"))
    }
    added["cpu, counted"] = [100 * pair["with"]["counted_cpu_seconds"] / pair["with"]["cpu_seconds"] for pair in pairs]
    return {
        f"added, % of {name}": {
            "median": round(statistics.median(values), 2),
            "quartiles": [round(value, 2) for value in statistics.quantiles(values, n=4)[::2]],
        }
        for name, values in added.items()
    }


def work(side: str) -> int:
    """Train in this process, and write `measured.json`."""
    from tnt_exp.cli import main as command
    from tnt_exp.run_folder import RunFolder
    from tnt_exp.training.checkpoint_manager import CheckpointManager
    from tnt_exp.training.trainer import Trainer

    begin: dict[str, float] = {}
    calls = [0.0]
    append, fit = RunFolder.append_metrics, Trainer.fit

    def now() -> dict[str, float]:
        others = {thread.native_id for thread in threading.enumerate() if thread is not threading.main_thread()}
        threads = [thread for thread in psutil.Process().threads() if thread.id in others]
        counted = calls[0] + sum(thread.user_time + thread.system_time for thread in threads)
        return {
            "seconds": time.perf_counter(),
            "cpu_seconds": time.process_time(),
            "counted_cpu_seconds": counted if side == "with" else 0.0,
        }

    def appended(folder: RunFolder, row: Any) -> None:
        append(folder, row)
        if not begin:
            Path("ready").touch()
            parent = os.getppid()
            while not all((Path("..") / other / "ready").exists() for other in SIDES):
                time.sleep(0.01)
                if os.getppid() != parent:
                    sys.exit("the benchmark has ended")
            begin.update(now())

    def fitted(trainer: Trainer) -> Any:
        best = fit(trainer)
        measured = {name: value - begin[name] for name, value in now().items()}
        Path("measured.json").write_text(json.dumps(measured))
        return best

    def counted(owner: type, name: str) -> None:
        inner = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            before = time.thread_time()
            try:
                return inner(*arguments, **named)
            finally:
                if threading.current_thread() is threading.main_thread():
                    calls[0] += time.thread_time() - before

        setattr(owner, name, call)

    RunFolder.append_metrics, Trainer.fit = appended, fitted  # type: ignore[method-assign, assignment]
    for owner, name in ((CheckpointManager, "should_save"), (CheckpointManager, "save")):
        counted(owner, name)
    if side == "without":
        CheckpointManager.save = lambda manager, step: None  # type: ignore[method-assign, misc, assignment]
        return command(["train", "tracking=off"])
    return command(["train"])


if __name__ == "__main__":
    sys.exit(main())
