"""The sides of `make bench` are networks of equal size."""

import pytest

from benchmarks.run import SAME, SEED, TIMM_S, TIMM_SAME, suites
from tnt_exp.config.compose import compose
from tnt_exp.model.counts import parameters


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
