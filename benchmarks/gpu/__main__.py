"""What a new GPU does with tnt-exp: `python -m benchmarks.gpu`, or `make gpu`.

    python -m benchmarks.gpu                          check, speed, train and page, one after the other
    python -m benchmarks.gpu check --seconds 200      one stage, with a time limit of its own
    python -m benchmarks.gpu train --recipe cifar100_50ep --data FOLDER
    python -m benchmarks.gpu pack --limit 60MB --python 3.12 --data cifar-100-binary.tar.xz --to FOLDER
    python -m benchmarks.gpu unpack FOLDER --to FOLDER

Exit codes: 0 all is well, 1 something failed (the JSON says what), 2 the input cannot be used.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import pack, unpack
from benchmarks.gpu.stage import BACKENDS, CPU_FACTOR, ROOT, SECONDS, Stage, hardware, installed

STAGES = ("check", "speed", "train", "page")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["pack"]:
        return pack.main(given[1:])
    if given[:1] == ["unpack"]:
        return unpack.main(given[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; default: all of them")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu", help="folder of the results"
    )
    parser.add_argument("--data", type=Path, help="folder with digits.npz and a CIFAR-100 archive; default: ../data")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: those that are installed")
    parser.add_argument("--scale", choices=("full", "small"), help="small: for a processor; default: full on a GPU")
    parser.add_argument(
        "--seconds", type=float, help=f"time limit of each stage; default: {SECONDS}, more on a processor"
    )
    parser.add_argument("--recipe", action="append", help="experiments that `train` runs; default: cifar100_50ep")
    options = parser.parse_args(given)
    for name in options.stages:
        if name not in STAGES:
            parser.error(f"stages: expected some of {', '.join(STAGES)}, or pack or unpack alone, received {name}")
    backends = options.backend or [name for name in BACKENDS if installed(name)]
    if not all(installed(name) for name in backends) or not backends:
        parser.error(f"--backend: expected installed ones of {', '.join(BACKENDS)}, received {options.backend}")
    data = options.data or (ROOT.parent / "data" if (ROOT.parent / "data" / "digits.npz").exists() else None)
    small = options.scale == "small" if options.scale else not hardware()["gpus"]
    codes = []
    for name in options.stages or STAGES:
        seconds = options.seconds or SECONDS[name] * (CPU_FACTOR if small else 1)
        command = shlex.join(["python", "-m", "benchmarks.gpu", *given])
        stage = Stage(name, options.output.resolve(), data and data.resolve(), backends, small, seconds, command)
        codes.append(_run(stage, options.recipe or ["cifar100_50ep"]))
    return 0 if all(codes) else 1


def _run(stage: Stage, recipes: list[str]) -> bool:
    # Each is imported when it runs: packing needs none of them.
    if stage.name == "check":
        from benchmarks.gpu import check

        return check.main(stage)
    if stage.name == "speed":
        from benchmarks.gpu import speed

        return speed.main(stage)
    if stage.name == "train":
        from benchmarks.gpu import train

        return train.main(stage, recipes)
    from benchmarks.gpu import page

    return page.main(stage.output)


if __name__ == "__main__":
    sys.exit(main())
