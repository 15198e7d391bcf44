"""The sides of `make bench` are networks of equal size."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import official_files
from PIL import Image

from benchmarks import equal_time, time_to_result
from benchmarks.run import SAME, SEED, TIMM_S, TIMM_SAME, suites
from tnt_exp.config.compose import compose
from tnt_exp.model.cost import parameters


def size(overrides: list[str]) -> int:
    return parameters(compose(["dataset=cifar100", *overrides]).model, 100, 3)


def test_seed_formulation_has_the_examples_parameters() -> None:
    from benchmarks.seed import network

    assert network().count_params() == size(SEED) == 660_164


@pytest.mark.peers
@pytest.mark.parametrize(("options", "overrides"), [(TIMM_SAME, SAME), (TIMM_S, ["model=tnt_s"])])
def test_timm_has_our_parameters(options: dict[str, int], overrides: list[str]) -> None:
    from benchmarks.timm_tnt import Timm

    assert Timm(1, **options).parameters() == size(overrides)


def test_every_suite_composes() -> None:
    found = suites(128)
    assert {"seed_train", "seed_infer", "first_step", "growth"} <= set(found)
    assert all(side.label for suite in found.values() for side in suite.sides)


def test_recipes_in_equal_time_have_networks_of_one_budget() -> None:
    ours, example = (compose(overrides) for overrides in equal_time.TASKS["cifar100_15min"].values() if overrides)
    assert parameters(ours.model, 100, 3) <= parameters(example.model, 100, 3) == 660_164
    # Only what the two recipes are may differ: not the images, nor what the test is made of.
    assert (ours.dataset.name, ours.dataset.train_limit) == (example.dataset.name, example.dataset.train_limit)
    assert ours.flips_test_images is example.flips_test_images is False
    assert ours.trainer.precision == example.trainer.precision


def run_of(accuracy: float, minutes: float) -> dict[str, Any]:
    curve = [{"minutes": minutes * part, "train": accuracy, "validation": accuracy * part} for part in (0.5, 1.0)]
    test = {"test/accuracy": accuracy, "test/top5_accuracy": 0.5}
    return {"seed": 0, "parameters": 1234, "epochs": 2, "minutes": minutes, "curve": curve, **test}


def test_recipes_in_equal_time_are_compared_seed_by_seed(tmp_path: Path) -> None:
    runs = {"one": [run_of(0.30, 9.5), run_of(0.34, 9.5)], "two": [run_of(0.10, 10), run_of(0.12, 10.5)], "three": []}
    assert equal_time.points_ahead(runs) == {"two": pytest.approx([20, 22]), "three": []}
    assert equal_time.table(runs).splitlines()[2:] == [
        "| one | 1,234 | 9.5 | 32.0 % ± 2.8 | 50.0 % ± 0.0 |",
        "| two | 1,234 | 10.0 to 10.5 | 11.0 % ± 1.4 | 50.0 % ± 0.0 |",
    ]
    equal_time.draw(runs, "title", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("task", ["cifar100_15min", "photos"])
def test_a_keras_network_trains_for_the_given_processor_time(task: str, tmp_path: Path) -> None:
    if task == "photos":
        for part, name, index in itertools.product(("train", "validation", "test"), ("a", "b"), range(4)):
            file = tmp_path / part / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((70, 80, 3), 60 * index + (name == "b"), np.uint8)).save(file)
    else:
        archive = official_files.tar(official_files.binary_cifar100(), "cifar-100-binary", mode="gz")
        (tmp_path / "cifar-100-binary.tar.gz").write_bytes(archive)
    path = tmp_path if task == "photos" else tmp_path / "cifar-100-binary.tar.gz"
    command = [sys.executable, "-m", "benchmarks.equal_time", task, f"--path={path}", "--keras=12", "--seeds=0"]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["parameters"] == {"cifar100_15min": 279_892, "photos": 548_258}[task]
    assert 11 <= 60 * found["minutes"] <= 30
    assert found["epochs"] == len(found["curve"]) >= 1
    assert 0 <= found["test/accuracy"] <= found["test/top5_accuracy"] <= 1


def test_time_to_result_is_compared_with_another_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shortened(words: Sequence[str]) -> list[str]:
        return [*words, *(["model=tiny", "trainer.steps_per_epoch=2"] if words[0] == "train" else [])]

    tasks = {name: (shortened(words), end) for name, (words, end) in time_to_result.TASKS.items() if "98 %" not in name}
    monkeypatch.setattr(time_to_result, "TASKS", tasks)
    monkeypatch.setattr(time_to_result, "TRAINING", shortened(time_to_result.TRAINING))
    output = tmp_path / "out.json"
    assert time_to_result.main(["--vs", str(time_to_result.ROOT), "--rounds", "1", "--output", str(output)]) == 0
    found = json.loads(output.read_text())["tasks"]
    assert set(found) == set(tasks)
    for task in found.values():
        assert 0.5 < task["this"]["seconds"]["median"] < 300
        assert 0.2 < task["ratio"]["seconds"]["median"] < 5


def test_time_to_result_needs_a_command_that_ends_well(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"train model=none in .* ended with code 2"):
        time_to_result.seconds_until(time_to_result.ROOT, tmp_path, ["train", "model=none"], 0.5)


@pytest.mark.parametrize(
    ("line", "accuracy"),
    [
        ("epoch  3/40 | loss 0.7 accuracy 0.9 | val loss 0.6  accuracy 0.9815 | lr 1e-3 | 9 images/s", "0.9815"),
        ("epoch 1/1 | loss 0.7000  accuracy 0.9000 | lr 1.00e-03 | 900 images/s", None),
    ],
)
def test_an_epoch_is_read_from_its_line(line: str, accuracy: str | None) -> None:
    found = time_to_result.EPOCH.match(line)
    assert found
    assert found[1] == accuracy
    assert not time_to_result.EPOCH.match("resuming  at epoch 3, step 2 of it")
