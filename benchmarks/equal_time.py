"""Two recipes in the same time: the keras.io example's network and recipe, and ours, in turn, some seeds each.

    python -m benchmarks.equal_time --path cifar-100-binary.tar.xz

Both in this package's code, one run at a time, alone on the machine; who begins turns. Writes
benchmarks/results/equal_time.json and docs/pictures/equal_time.png, prints the table of docs/recipes.md. Runs have
names, so the same command continues where it was interrupted.
"""

import argparse
import csv
import datetime
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.decoding import processor
from benchmarks.run import RESULTS, ROOT

SIDES = {
    "keras.io example": ["experiment=cifar100_keras_example", "trainer.epochs=2"],
    "cifar100_15min": ["experiment=cifar100_15min", "trainer.test_time_flip=false"],  # the example has no such views
}
# Minutes and accuracy in percent on validation images; both at the end, on test images.
Curve = tuple[Sequence[float], Sequence[float], tuple[float, float]]
FACTS = ("parameters", "macs", "train_seconds", "total_seconds", "metrics", "versions", "hardware")


def train(overrides: Sequence[str], path: Path, seed: int, name: str) -> dict[str, Any]:
    """One run: what its result says, and its curve."""
    given = [*overrides, f"dataset.path={path.resolve()}", f"seed={seed}", f"run.name={name}", "tracking=off"]
    subprocess.run([sys.executable, "-m", "tnt_exp", "train", *given], check=True)
    folder = Path("multirun") / "runs" / name
    result = json.loads((folder / "result.json").read_text())
    with (folder / "metrics.csv").open() as stream:
        curve = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]
    return {"seed": seed, **{key: result[key] for key in FACTS}, "curve": curve}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means and standard deviations over the seeds, and what the second side is ahead by."""
    figures: dict[str, Any] = {}
    for side, found in runs.items():
        for key in ("test/accuracy", "test/top5_accuracy"):
            values = [run["metrics"][key] for run in found]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            figures.setdefault(side, {})[key] = {"mean": statistics.fmean(values), "std": deviation}
        figures[side]["train_minutes"] = [run["train_seconds"] / 60 for run in found]
        figures[side]["total_minutes"] = [run["total_seconds"] / 60 for run in found]
    first, second = runs
    pairs = zip(runs[first], runs[second], strict=False)
    figures["points ahead"] = [100 * (b["metrics"]["test/accuracy"] - a["metrics"]["test/accuracy"]) for a, b in pairs]
    return figures


def table(figures: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> str:
    """The table of docs/recipes.md."""
    lines = ["| | parameters | epochs | minutes, start to end | test top-1 | test top-5 |", "|---|---|---|---|---|---|"]
    for side, found in runs.items():
        minutes = figures[side]["total_minutes"]
        top1, top5 = (figures[side][key] for key in ("test/accuracy", "test/top5_accuracy"))
        lines.append(
            f"| `{side}` | {found[0]['parameters']:,} | {len(found[0]['curve'])} "
            f"| {min(minutes):.1f} to {max(minutes):.1f} | {100 * top1['mean']:.2f} % ± {100 * top1['std']:.2f} "
            f"| {100 * top5['mean']:.2f} % ± {100 * top5['std']:.2f} |"
        )
    return "\n".join(lines)


def draw(runs: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Accuracy on validation images by the minutes of training, and the test's at the end."""
    curves: dict[str, list[Curve]] = {}
    for side, found in runs.items():
        for run in found:
            minutes = [0.0, *np.cumsum([row["seconds"] for row in run["curve"]]) / 60]
            accuracy = [1.0, *(100 * row["val/accuracy"] for row in run["curve"])]
            end = (minutes[-1], 100 * run["metrics"]["test/accuracy"])
            curves.setdefault(side, []).append((minutes, accuracy, end))
    draw_curves(
        curves,
        file,
        colours=("tab:gray", "tab:blue"),
        line={"marker": "o", "markersize": 3},
        axes={
            "xlabel": "minutes of training",
            "ylabel": "top-1 accuracy, %",
            "title": "CIFAR-100 in the same time",
            "ylim": (0, None),
        },
    )


def draw_curves(
    curves: dict[str, list[Curve]], file: Path, *, colours: Sequence[str], line: dict[str, Any], axes: dict[str, Any]
) -> None:
    """Draw the curves of each side in its colour, and a star for each run's accuracy on test images."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for (side, found), colour in zip(curves.items(), colours, strict=True):
        for number, (minutes, accuracy, end) in enumerate(found):
            label = f"{side}, validation" if number == 0 else None
            panel.plot(minutes, accuracy, color=colour, alpha=0.7, label=label, **line)
            label = f"{side}, test" if number == 0 else None
            panel.plot(*end, marker="*", markersize=11, linestyle="", color=colour, label=label)
    panel.set(**axes)
    panel.grid(alpha=0.3)
    panel.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="CIFAR-100, archive or folder")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(options.seeds):
        for side in list(SIDES)[:: 1 if seed % 2 == 0 else -1]:
            name = f"equal_time_{side.replace(' ', '_')}_{seed}"
            runs[side].append(train(SIDES[side], options.path, seed, name))
    figures = summary(runs)
    print(table(figures, runs))
    print("points ahead, by seed:", ", ".join(f"{points:.2f}" for points in figures["points ahead"]))
    result = {"date": datetime.date.today().isoformat(), "hardware": processor(), "summary": figures, "runs": runs}
    result["command"] = "python -m benchmarks.equal_time"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "equal_time.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(runs, ROOT / "docs" / "pictures" / "equal_time.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
