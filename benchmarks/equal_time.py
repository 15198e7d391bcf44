"""A recipe of ours and other networks, trained on the same data in the same processor time, some seeds each.

    python -m benchmarks.equal_time cifar100_15min --path cifar-100-binary.tar.xz
    python -m benchmarks.equal_time cifar100_50ep --path cifar-100-binary.tar.xz
    python -m benchmarks.equal_time photos --path clothing       a folder with train/, validation/ and test/

The recipes of CIFAR-100 beside ResNet-20 ("Deep Residual Learning", arXiv 1512.03385, section 4.2), the short one also
beside the keras.io example's network and recipe in this package's code, of which two epochs take about as long.
`photos`: `experiment=photos` beside the network of Keras' tutorial "Image classification" (keras.io, tensorflow.org).

Ours runs first, from start to end; the networks in plain Keras get the processor time that it took, reading the images
and testing included. Processor time is that of all cores together, so that other work on the machine does not count:
two quiet cores give at most two minutes per minute. Writes benchmarks/results/NAME.json after each run and
docs/pictures/NAME.png, and prints the table of docs/recipes.md; NAME is that of the task, or photos_FOLDER. The same
command continues after the last run in that file.
"""

import argparse
import csv
import datetime
import json
import math
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
from benchmarks.run import RESULTS, ROOT

PHOTO_SIZE = 64  # side of the tutorial's images, pixels, as ours
# What is trained in this package's code, by its overrides, and in plain Keras (None); the first one sets the time.
TASKS: dict[str, dict[str, list[str] | None]] = {
    # The others do not average mirror images.
    "cifar100_15min": {
        "cifar100_15min": ["experiment=cifar100_15min", "trainer.test_time_flip=false"],
        "ResNet-20": None,
        "keras.io example": ["experiment=cifar100_keras_example", "trainer.epochs=2"],
    },
    "cifar100_50ep": {
        "cifar100_50ep": ["experiment=cifar100_50ep", "trainer.test_time_flip=false"],
        "ResNet-20": None,
    },
    "photos": {"experiment=photos": ["experiment=photos"], "tutorial network": None},
}


def train_ours(overrides: Sequence[str], path: Path, seed: int, name: str) -> dict[str, Any]:
    """Train in this package's code, and return the run's entry in the file of results."""
    folder = Path("multirun") / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)  # interrupted: its time is not known
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    given = [*overrides, f"dataset.path={path}", f"seed={seed}", f"run.name={name}", "tracking=off"]
    subprocess.run([sys.executable, "-m", "tnt_exp", "train", *given], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / 60
    result = json.loads((folder / "result.json").read_text())
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    curve = [
        {  # each epoch takes the same work
            "minutes": minutes * number / len(rows),
            "train": float(row["train/accuracy"]),
            "validation": float(row["val/accuracy"]),
        }
        for number, row in enumerate(rows, 1)
    ]
    return _entry(seed, result["parameters"], minutes, result["metrics"], curve)


def _entry(
    seed: int, parameters: int, minutes: float, metrics: dict[str, float], curve: list[dict[str, float]]
) -> dict[str, Any]:
    test = {key: metrics[key] for key in ("test/accuracy", "test/top5_accuracy")}
    return {"seed": seed, "parameters": parameters, "epochs": len(curve), **test, "minutes": minutes, "curve": curve}


def train_keras(task: str, path: Path, seconds: float, seed: int) -> dict[str, Any]:
    """Train the task's network in plain Keras until this process has used so many seconds of processor time.

    It keeps the epoch that is best on the validation images.
    """
    import keras

    keras.utils.set_random_seed(seed)
    network, given, test = _tutorial(path, seed) if task == "photos" else _resnet20(path)
    base_rate = float(network.optimizer.learning_rate)
    curve: list[dict[str, float]] = []
    best: tuple[float, list[Any]] = (-1.0, [])
    end = 0.98 * seconds  # testing takes the rest

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
            if task != "photos":  # a cosine over the time, as ours over the steps
                progress = min(time.process_time() / end, 1)
                network.optimizer.learning_rate = base_rate * (1 + math.cos(math.pi * progress)) / 2
            network.stop_training = time.process_time() >= end

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            nonlocal best
            minutes, accuracy = time.process_time() / 60, logs["val_accuracy"]
            curve.append({"minutes": minutes, "train": logs["accuracy"], "validation": accuracy})
            if accuracy > best[0]:
                best = accuracy, network.get_weights()

    network.fit(**given, epochs=10_000, verbose=0, callbacks=[Clock()])
    network.set_weights(best[1])
    measured = network.evaluate(**test, verbose=0, return_dict=True)
    metrics = {"test/accuracy": measured["accuracy"], "test/top5_accuracy": measured["top5_accuracy"]}
    return _entry(seed, network.count_params(), time.process_time() / 60, metrics, curve)


def _compile(network: Any, optimizer: Any) -> None:
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    top5 = keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5_accuracy")
    network.compile(optimizer, loss, metrics=["accuracy", top5])


def _tutorial(path: Path, seed: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The tutorial's network: three convolutions with pooling, two dense layers, dropout; flips, rotations, zooms.

    Returns:
        The network, the arguments of `fit` and those of `evaluate`.
    """
    import keras
    from keras import layers

    def read(part: str, *, shuffle: bool) -> Any:
        size = (PHOTO_SIZE, PHOTO_SIZE)
        return keras.utils.image_dataset_from_directory(
            path / part, image_size=size, batch_size=32, crop_to_aspect_ratio=True, shuffle=shuffle, seed=seed
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
    network = keras.Sequential([keras.Input((PHOTO_SIZE, PHOTO_SIZE, 3)), *augmentation, *convolutions, *end])
    _compile(network, "adam")
    training = training.cache().shuffle(1000, seed=seed).prefetch(2)
    return network, {"x": training, "validation_data": validation.cache()}, {"x": test}


def _resnet20(path: Path) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """ResNet-20 with 1x1 convolutions as shortcuts, and the paper's optimizer, crops, flips and weight decay.

    Returns:
        As of `_tutorial`.
    """
    import keras
    from keras import layers

    from tnt_exp import data
    from tnt_exp.config.compose import compose

    decay = keras.regularizers.L2(0.5e-4)  # the gradient of it is 1e-4 of the weight

    def convolution(x: Any, width: int, size: int, stride: int = 1) -> Any:
        x = layers.Conv2D(
            width, size, stride, "same", use_bias=False, kernel_initializer="he_normal", kernel_regularizer=decay
        )(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    images = keras.Input((32, 32, 3))
    x = layers.RandomFlip("horizontal")(images)
    x = layers.RandomTranslation(0.125, 0.125, fill_mode="constant", interpolation="nearest")(x)
    x = layers.ReLU()(convolution(layers.Rescaling(1 / 64, -2)(x), 16, 3))
    for width in (16, 32, 64):
        for index in range(3):
            stride = 2 if index == 0 and width > 16 else 1
            y = convolution(layers.ReLU()(convolution(x, width, 3, stride)), width, 3)
            x = layers.ReLU()(layers.add([y, x if stride == 1 else convolution(x, width, 1, stride)]))
    logits = layers.Dense(100, kernel_regularizer=decay)(layers.GlobalAveragePooling2D()(x))
    network = keras.Model(images, logits)
    _compile(network, keras.optimizers.SGD(0.1, momentum=0.9))
    dataset = data.load_dataset(compose(["experiment=cifar100_15min", f"dataset.path={path}"]).dataset)
    train, validation, test = dataset.train, dataset.validation, dataset.test
    given = {"x": train.images, "y": train.labels, "validation_data": (validation.images, validation.labels)}
    return network, {**given, "batch_size": 128}, {"x": test.images, "y": test.labels}


def points_ahead(runs: dict[str, list[dict[str, Any]]]) -> dict[str, list[float]]:
    """By how many points of test accuracy the first side is ahead of each other one, by seed."""
    first, *others = runs
    return {
        other: [100 * (a["test/accuracy"] - b["test/accuracy"]) for a, b in zip(runs[first], runs[other], strict=False)]
        for other in others
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """The table of docs/recipes.md."""
    lines = ["| | parameters | minutes of processor time | test top-1 | test top-5 |", "|---|---|---|---|---|"]
    for side, found in runs.items():
        if found:
            minutes = [run["minutes"] for run in found]
            accuracies = [_spread(found, key) for key in ("test/accuracy", "test/top5_accuracy")]
            bounds = " to ".join(dict.fromkeys([f"{min(minutes):.1f}", f"{max(minutes):.1f}"]))
            lines.append(f"| {side} | {found[0]['parameters']:,} | {bounds} | {' | '.join(accuracies)} |")
    return "\n".join(lines)


def _spread(found: list[dict[str, Any]], key: str) -> str:
    values = [100 * run[key] for run in found if key in run]
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f} %{deviation}" if values else ""


def draw(runs: dict[str, list[dict[str, Any]]], title: str, file: Path) -> None:
    """Draw the accuracy on validation images by the minutes, and a star for that on the test images at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for (side, found), colour in zip(runs.items(), ("tab:blue", "tab:gray", "tab:orange"), strict=False):
        for number, run in enumerate(found):
            minutes = [row["minutes"] for row in run["curve"]]
            accuracy = [100 * row["validation"] for row in run["curve"]]
            labels = (f"{side}, validation", f"{side}, test") if number == 0 else (None, None)
            panel.plot(minutes, accuracy, color=colour, alpha=0.7, linewidth=1.2, label=labels[0])
            end = (run["minutes"], 100 * run["test/accuracy"])
            panel.plot(*end, marker="*", markersize=11, linestyle="", color=colour, label=labels[1])
    panel.set(xlabel="minutes of processor time", ylabel="accuracy, %", title=title, xlim=(0, None), ylim=(0, None))
    panel.grid(alpha=0.3)
    panel.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--path", type=Path, required=True, help="CIFAR-100, archive or folder; or the photos' folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keras", type=float, metavar="SECONDS", help="train the Keras network in this process")
    options = parser.parse_args(arguments)
    task, path = options.task, options.path.resolve()
    if options.keras is not None:
        print(json.dumps(train_keras(task, path, options.keras, options.seeds)))
        return 0
    name = f"photos_{path.name}" if task == "photos" else task
    file = RESULTS / f"{name}.json"
    sides = TASKS[task]
    command = f"python -m benchmarks.equal_time {task} --path {path.name}"
    before = json.loads(file.read_text()) if file.exists() else {}
    runs = before["runs"] if before.get("command") == command else {side: [] for side in sides}
    for seed in range(options.seeds):
        for side, overrides in sides.items():
            if len(runs[side]) > seed:
                continue
            if overrides is not None:
                run = train_ours(overrides, path, seed, f"{name}_{side.replace(' ', '_').partition('=')[0]}_{seed}")
            else:
                seconds = 60 * runs[next(iter(sides))][seed]["minutes"]
                given = [task, f"--path={path}", f"--keras={seconds}", f"--seeds={seed}"]
                environment = {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.equal_time", *given],
                    env=os.environ | environment,
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                run = json.loads(done.stdout.splitlines()[-1])
            runs[side].append(run)
            print(table(runs), flush=True)
            result = {"date": datetime.date.today().isoformat(), "hardware": processor(), "runs": runs}
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps({**result, "command": command}, indent=1) + "\n")
    for side, points in points_ahead(runs).items():
        print(f"points ahead of {side}, by seed:", ", ".join(f"{value:.1f}" for value in points))
    draw(
        runs, f"{path.name.partition('.')[0]}: accuracy in the same processor time", ROOT / f"docs/pictures/{name}.png"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
