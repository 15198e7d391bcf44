"""The sides of `make bench` are networks of equal size."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import equal_time
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
    example, ours = (compose(overrides) for overrides in equal_time.SIDES.values())
    assert parameters(ours.model, 100, 3) <= parameters(example.model, 100, 3) == 660_164
    # Only what the two recipes are may differ: not the images, nor what the test is made of.
    assert (ours.dataset.name, ours.dataset.train_limit) == (example.dataset.name, example.dataset.train_limit)
    assert ours.trainer.test_time_flip == example.trainer.test_time_flip is False
    assert ours.trainer.precision == example.trainer.precision


def run_of(accuracy: float, seconds: float) -> dict[str, Any]:
    curve = [{"epoch": epoch, "seconds": seconds / 2, "val/accuracy": accuracy * epoch / 2} for epoch in (1.0, 2.0)]
    facts = {"parameters": 1234, "train_seconds": seconds, "total_seconds": seconds + 30}
    return {"seed": 0, **facts, "metrics": {"test/accuracy": accuracy, "test/top5_accuracy": 0.5}, "curve": curve}


def test_recipes_in_equal_time_are_compared_seed_by_seed(tmp_path: Path) -> None:
    runs = {"one": [run_of(0.10, 600), run_of(0.12, 630)], "two": [run_of(0.30, 570), run_of(0.34, 570)]}
    found = json.loads(json.dumps(equal_time.summary(runs)))
    assert found["points ahead"] == pytest.approx([20, 22])
    assert found["one"]["test/accuracy"] == pytest.approx({"mean": 0.11, "std": 0.0002**0.5})
    assert "| `two` | 1,234 | 2 | 10.0 to 10.0 | 32.00 % ± 2.83 |" in equal_time.table(found, runs)
    equal_time.draw(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
