"""Fill the disk at random moments of a run and of a sweep, make room, repeat the command, compare to the bit.

make disk-full                             20 moments of a run, and 20 of a sweep
python tests/disk_full.py --moments 3      fewer

Needs the right to mount a small file system in memory (root). The command must end with one line and without a
traceback; once there is room again, the same command must end with the weights, optimizer, curve and metrics of one
that had always had room, and MLflow must have every point once.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torture

_SIZE = 48  # MiB
RUN = torture.RUN
SWEEP = ["-m", "model.embed_dim=16,24,32", "launcher.slots=2", *(text for text in RUN if "run.name" not in text)]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of a few MiB on a folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def run(folder: Path, command: list[str], full_after: float | None) -> tuple[int, str]:
    """Run a command in a folder, whose disk is filled after so many seconds, until the command has ended.

    Returns:
        The exit code, and the output.
    """
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tnt_exp", "train", *command],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
        if full_after is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(full_after)
            fill(folder)
        code = process.wait(600)
        (folder / "filler").unlink(missing_ok=True)
        output.seek(0)
        return code, output.read()


def fill_at_random(home: Path, name: str, command: list[str], moments: int, dice: random.Random) -> list[str]:
    """Fill the disk so often, and return what was wrong."""
    from tnt_exp.run_folder import first_difference

    wrong, outcomes = [], Counter[str]()
    whole = home / name
    whole.mkdir()
    begin = time.monotonic()
    code, output = run(whole, command, None)
    seconds = time.monotonic() - begin
    if code:
        raise RuntimeError(f"Expected exit code 0, received {code}:\n{output[-3000:]}")
    pattern = "multirun/sweeps/*/[0-9]" if "-m" in command else "multirun/runs/run"
    for number in range(moments):
        after = dice.uniform(0.1, seconds)
        title = f"{name} {number + 1}, full after {after:.1f} s of {seconds:.1f}"
        with small_disk(home / f"{name}-{number}") as disk:
            code, output = run(disk, command, after)
            outcomes[f"exit code {code}"] += 1
            if code not in (0, 1) or "Traceback" in output:
                wrong.append(f"{title}: exit code {code}\n{output[-3000:]}")
            again = [*command, "sweep.rerun=failed"] if "-m" in command else command
            if code or "-m" not in command:  # the command of a sweep that has finished begins another
                code, output = run(disk, again, None)
            if code:
                wrong.append(f"{title}: exit code {code} with room again\n{output[-3000:]}")
                continue
            expected = sorted(whole.glob(pattern))
            found = sorted(disk.glob(pattern))
            if len(found) != len(expected):
                wrong.append(f"{title}: {len(found)} run folders instead of {len(expected)}")
            for mine, reference in zip(found, expected, strict=False):
                if difference := first_difference(mine, reference):
                    wrong.append(f"{title}: {mine.name}: {difference}")
            wrong += [f"{title}: {line}" for line in _missing_points(disk, len(expected), "-m" in command)]
        print(f"{title}: {len(wrong)} wrong so far", flush=True)
    print(f"{name}: {dict(outcomes)} while the disk was full", flush=True)
    return wrong


def _missing_points(folder: Path, runs: int, is_sweep: bool) -> list[str]:
    """Return what MLflow lacks or has twice: each run FINISHED, each epoch of its curve once."""
    statuses, expected = torture._statuses(folder), {"FINISHED": runs + is_sweep}
    wrong = [f"MLflow has runs {statuses} instead of {expected}"] if statuses != expected else []
    points = torture._query(
        folder,
        "SELECT run_uuid, step FROM metrics JOIN runs USING (run_uuid) WHERE key = 'val/loss' "
        "AND lifecycle_stage = 'active'",
    )
    if sorted(step for _, step in points) != sorted(list(range(1, torture._EPOCHS + 1)) * runs):
        wrong.append(f"MLflow has val/loss at {json.dumps(points)}")
    return wrong


def main(arguments: list[str]) -> int:
    """Fill disks and say what was wrong; 1 if anything was."""
    parser = argparse.ArgumentParser(description="Fill the disk at random moments.")
    parser.add_argument("--moments", type=int, default=20, help="of the run, and of the sweep (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    dice = random.Random(options.seed)
    wrong = []
    with tempfile.TemporaryDirectory() as home:
        for name, command in (("run", RUN), ("sweep", SWEEP)):
            wrong += fill_at_random(Path(home), name, command, options.moments, dice)
    print("\n".join(f"WRONG: {line}" for line in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
