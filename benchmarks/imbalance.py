"""Does `trainer.class_weights=balanced` help where classes are 1:20? The digits, three seeds, with and without.

    python -m benchmarks.imbalance --folder FOLDER

Of the digits 5 to 9 one training image in 20 is kept, of 0 to 4 all; the test images are all that no class lost. Writes
benchmarks/results/imbalance.json and prints the table of docs/configuration.md. The same command continues a sweep that
was interrupted, in its folder.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.decoding import processor
from benchmarks.run import RESULTS
from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data import load_dataset
from tnt_exp.sweeps import results
from tnt_exp.sweeps.study import list_studies

KEPT = 20  # of the training images of a rare class, one in so many
METRICS = ("test/accuracy", "test/balanced_accuracy", "test/macro_f1")


def write_images(file: Path) -> None:
    """The digits with a third of the images for the test, and few training images of 5 to 9."""
    dataset = load_dataset(DatasetConfig(test_fraction=0.33, validation_fraction=0))
    train, test = dataset.train, dataset.test
    rank = np.zeros(len(train), np.int64)  # the how manyth image of its class
    for label in range(10):
        rank[train.labels == label] = np.arange(np.sum(train.labels == label))
    chosen = (train.labels < 5) | (rank % KEPT == 0)
    x_train, x_test = np.asarray(train.images[:]), np.asarray(test.images[:])
    np.savez(file, x_train=x_train[chosen], y_train=train.labels[chosen], x_test=x_test, y_test=test.labels)


def main() -> None:
    """Run the sweep, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="a working folder")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "digits.npz").exists():
        write_images(folder / "digits.npz")
    arguments = ["dataset=npz", "dataset.path=digits.npz", "dataset.validation_fraction=0", "trainer.select=last"]
    arguments += ["trainer.class_weights=none,balanced", "seed=0,1,2", "tracking=off"]
    arguments += [f"sweep.objective={METRICS[1]}"]
    subprocess.run([sys.executable, "-m", "tnt_exp", "train", "-m", *arguments], cwd=folder, check=True)
    study = list_studies(folder / "multirun/sweeps")[0]
    measured = {"kept": KEPT, "processor": processor(), "arguments": arguments, "sides": {}}
    print("| `trainer.class_weights` | accuracy | macro recall | macro F1 |\n|---|---|---|---|")
    for point in results.ranked(results.rows(study), study):
        side = point.params["trainer.class_weights"]
        measured["sides"][side] = {name: [row.metrics[name] for row in point.rows] for name in METRICS}
        cells = [f"{100 * point.mean_of(name):.2f} % ± {100 * point.std_of(name):.2f}" for name in METRICS]
        print(f"| {side} | {' | '.join(cells)} |")
    (RESULTS / "imbalance.json").write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
