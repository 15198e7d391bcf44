"""Photos in folders: `experiment=photos` and the network of Keras' tutorial, in turn, in the same processor time.

    python -m benchmarks.photos --path clothing --seeds 3

The folder has train/, validation/ and test/ with class folders inside. The tutorial ("Image classification",
keras.io and tensorflow.org) has three convolutions with pooling, two dense layers, dropout, and random flips, rotations
and zooms; it gets the processor time that our run with the same seed took from start to end, and keeps the epoch that
is best on the validation images. Processor time is that of all cores together, so that other work on the machine does
not count: two quiet cores give at most two minutes per minute. Writes benchmarks/results/photos_NAME.json after each
seed and docs/pictures/photos_NAME.png, and prints the table of docs/recipes.md. The same command continues after the
last seed in that file.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.decoding import processor
from benchmarks.equal_time import Curve, draw_curves, train
from benchmarks.run import RESULTS, ROOT

SIZE = 64  # side of the tutorial's images, pixels, as ours


def train_tutorial(path: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Train the tutorial's network until this process has used so many seconds of processor time."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)

    def read(part: str, *, shuffle: bool) -> Any:
        return keras.utils.image_dataset_from_directory(
            path / part, image_size=(SIZE, SIZE), batch_size=32, crop_to_aspect_ratio=True, shuffle=shuffle, seed=seed
        )

    training, validation, test = (read(part, shuffle=part == "train") for part in ("train", "validation", "test"))
    classes = len(training.class_names)
    flip = layers.RandomFlip("horizontal")
    augmentation = [flip, layers.RandomRotation(0.1), layers.RandomZoom(0.1), layers.Rescaling(1 / 255)]
    convolutions = [
        layer
        for width in (16, 32, 64)
        for layer in (layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPooling2D())
    ]
    end = [layers.Dropout(0.2), layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(classes)]
    network = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *augmentation, *convolutions, *end])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    curve: list[dict[str, float]] = []
    best: tuple[float, list[Any]] = (-1.0, [])
    training, validation = training.cache().shuffle(1000, seed=seed).prefetch(2), validation.cache()
    spent = 0.0  # seconds of the last epoch: one more must fit
    while time.process_time() + spent < seconds - 5:  # what the test takes
        begin = time.process_time()
        found = network.fit(training, validation_data=validation, verbose=0).history
        spent = time.process_time() - begin
        minutes, accuracy = time.process_time() / 60, found["val_accuracy"][0]
        curve.append({"minutes": minutes, "train": found["accuracy"][0], "validation": accuracy})
        if accuracy > best[0]:
            best = accuracy, network.get_weights()
    network.set_weights(best[1])
    return {
        "seed": seed,
        "parameters": network.count_params(),
        "epochs": len(curve),
        "test/accuracy": network.evaluate(test, verbose=0)[1],
        "minutes": time.process_time() / 60,
        "curve": curve,
    }


def train_ours(path: Path, seed: int, name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Train `experiment=photos`."""
    run_name = f"photos_{name}_{seed}"
    shutil.rmtree(Path("multirun/runs") / run_name, ignore_errors=True)  # interrupted: its time is not known
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = train(["experiment=photos", *overrides], path, seed, run_name)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / 60
    curve = []
    for row in run["curve"]:  # each epoch takes the same work
        accuracies = {"train": row["train/accuracy"], "validation": row["val/accuracy"]}
        curve.append({"minutes": minutes * row["epoch"] / len(run["curve"]), **accuracies})
    return {
        "seed": seed,
        "parameters": run["parameters"],
        "epochs": len(curve),
        "test/accuracy": run["metrics"]["test/accuracy"],
        "minutes": minutes,
        "curve": curve,
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The table of docs/recipes.md."""
    lines = ["| | parameters | minutes of processor time | test accuracy |", "|---|---|---|---|"]
    for side, found in runs.items():
        values = [100 * run["test/accuracy"] for run in found]
        spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        minutes = [run["minutes"] for run in found]
        lines.append(
            f"| {side} | {found[0]['parameters']:,} | {min(minutes):.1f} to {max(minutes):.1f} "
            f"| {statistics.fmean(values):.1f} %{spread} |"
        )
    return "\n".join(lines)


def draw(runs: dict[str, list[dict[str, Any]]], title: str, file: Path) -> None:
    """Accuracy on validation images by the minutes, and that on the test images at the end."""
    curves: dict[str, list[Curve]] = {}
    for side, found in runs.items():
        for run in found:
            minutes = [row["minutes"] for row in run["curve"]]
            accuracy = [100 * row["validation"] for row in run["curve"]]
            end = (run["minutes"], 100 * run["test/accuracy"])
            curves.setdefault(side, []).append((minutes, accuracy, end))
    draw_curves(
        curves,
        file,
        colours=("tab:blue", "tab:gray"),
        line={"linewidth": 1.2},
        axes={"xlabel": "minutes of processor time", "ylabel": "accuracy, %", "title": title, "xlim": (0, None)},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, required=True, help="folder with train/, validation/ and test/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--tutorial", type=float, metavar="SECONDS", help="train the tutorial's network in this process"
    )
    parser.add_argument("overrides", nargs="*", help="of our run")
    options = parser.parse_args(arguments)
    path = options.path.resolve()
    if options.tutorial is not None:
        print(json.dumps(train_tutorial(path, options.tutorial, options.seeds)))
        return 0
    name = path.name
    file = RESULTS / f"photos_{name}.json"
    runs: dict[str, list[dict[str, Any]]] = {"experiment=photos": [], "tutorial network": []}
    command_line = " ".join(["python -m benchmarks.photos --path", name, *options.overrides])
    if file.exists() and (before := json.loads(file.read_text()))["command"] == command_line:
        runs = before["runs"]
    for seed in range(len(runs["tutorial network"]), options.seeds):
        ours = train_ours(path, seed, name, options.overrides)
        runs["experiment=photos"].append(ours)
        command = [sys.executable, "-m", "benchmarks.photos", f"--path={path}"]
        given = [f"--tutorial={60 * ours['minutes']}", f"--seeds={seed}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run([*command, *given], env=environment, stdout=subprocess.PIPE, text=True, check=True)
        runs["tutorial network"].append(json.loads(done.stdout.splitlines()[-1]))
        print(table(runs), flush=True)
        result = {"date": datetime.date.today().isoformat(), "hardware": processor(), "runs": runs}
        result["command"] = command_line
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    title = f"{name}: accuracy in the same processor time"
    draw(runs, title, ROOT / f"docs/pictures/photos_{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
