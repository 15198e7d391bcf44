"""Seconds from a typed command to what somebody waits for, on the digits: the first trained step, 98 %, a prediction.

    python -m benchmarks.time_to_result                          this checkout
    python -m benchmarks.time_to_result --vs ../other/checkout   both, in turn

Each command runs as a process of its own, ten times, in rotating order if there are two checkouts. Prints medians with
quartiles, and writes benchmarks/results/time_to_result.json.
"""

import argparse
import datetime
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.decoding import processor, quartiles

ROOT = Path(__file__).resolve().parents[1]
RUN, PHOTO = "multirun/runs/trained", "photo.png"
EPOCH = re.compile(r"^epoch +\d+/\d+ \| loss (?:.* val loss \S+ +accuracy (\S+))?")
ONE_STEP = ("dataset.train_limit=64", "dataset.validation_fraction=0", "trainer.epochs=1")
TRAINING = ("train", "run.name=trained", "trainer.epochs=2")  # of the run whose model predicts
# Arguments of the command, and the validation accuracy that is waited for; None: the end of the command.
TASKS: dict[str, tuple[Sequence[str], float | None]] = {
    "first trained step": (("train", *ONE_STEP), 0.0),
    "98 % of the validation images right": (("train",), 0.98),
    "a prediction for one photo": (("predict", RUN, PHOTO), None),
}


def command(checkout: Path, folder: Path, arguments: Sequence[str]) -> "subprocess.Popen[str]":
    """Start `tnt-exp` of a checkout in a folder."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tnt_exp", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def seconds_until(checkout: Path, folder: Path, arguments: Sequence[str], accuracy: float | None) -> dict[str, float]:
    """Return the seconds until an epoch reaches an accuracy (None: until the end), and the processor time of all.

    Raises:
        RuntimeError: The command ended before.
    """
    begin, before = time.perf_counter(), _processor_seconds()
    process = command(checkout, folder, arguments)
    assert process.stdout
    seconds = None
    for line in process.stdout:
        found = EPOCH.match(line)
        if found and accuracy is not None and float(found[1] or 0) >= accuracy:
            seconds = time.perf_counter() - begin
            process.kill()
            break
    process.stdout.close()
    code = process.wait()
    if accuracy is None and code == 0:
        seconds = time.perf_counter() - begin
    if seconds is None:
        raise RuntimeError(f"tnt-exp {' '.join(arguments)} in {folder} ended with code {code}.")
    return {"seconds": seconds, "cpu_seconds": _processor_seconds() - before}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def prepare(checkout: Path, folder: Path) -> None:
    """Train a run, whose model predicts, and make a photo; the tracking store exists then, too."""
    folder.mkdir()
    seconds_until(checkout, folder, TRAINING, None)
    image = np.random.default_rng(0).integers(0, 256, (480, 640), np.uint8)
    Image.fromarray(image).save(folder / PHOTO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", type=Path, help="another checkout, with the same packages")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "time_to_result.json")
    options = parser.parse_args(arguments)
    checkouts = {"this": ROOT} | ({"other": options.vs.resolve()} if options.vs else {})
    found: dict[str, dict[str, list[dict[str, float]]]] = {task: {name: [] for name in checkouts} for task in TASKS}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in checkouts}
        for name, checkout in checkouts.items():
            prepare(checkout, folders[name])
        for number in range(options.rounds):
            for task, (words, accuracy) in TASKS.items():
                for name in list(checkouts)[:: 1 if number % 2 == 0 else -1]:
                    found[task][name].append(seconds_until(checkouts[name], folders[name], words, accuracy))
                    print(f"round {number + 1}, {task}, {name}: {found[task][name][-1]['seconds']:.2f} s", flush=True)
    result = {
        "command": "python -m benchmarks.time_to_result",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": processor(),
        "cores": psutil.cpu_count(),
        "rounds": options.rounds,
        "tasks": {task: summary(runs) for task, runs in found.items()},
    }
    print(json.dumps(result["tasks"], indent=2))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return quartiles of each checkout, and of the ratio of this one to the other."""
    rows: dict[str, Any] = {
        name: {key: quartiles([run[key] for run in values]) for key in ("seconds", "cpu_seconds")}
        for name, values in runs.items()
    }
    if "other" in runs:
        pairs = list(zip(runs["this"], runs["other"], strict=True))
        rows["ratio"] = {
            key: quartiles([own[key] / other[key] for own, other in pairs]) for key in ("seconds", "cpu_seconds")
        }
    return rows


if __name__ == "__main__":
    sys.exit(main())
