"""The learning rate at each step, against the formulas of the papers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnt_exp.config.optimizer import ScheduleConfig, Shape
from tnt_exp.training.optimizer import LearningRateSchedule


def schedule(**values: object) -> LearningRateSchedule:
    return LearningRateSchedule(ScheduleConfig(**values), peak=1.0, steps_per_epoch=10, epochs=10)  # type: ignore[arg-type]


def test_constant_is_constant() -> None:
    rates = [schedule(name=Shape.constant)(step) for step in range(100)]
    assert set(rates) == {1.0}


def test_warmup_is_linear_from_its_first_rate() -> None:
    rate = schedule(name=Shape.constant, warmup_epochs=2.0, warmup_learning_rate=0.2)
    assert rate(0) == pytest.approx(0.2)
    assert rate(10) == pytest.approx(0.6)
    assert rate(20) == 1.0


def test_cosine_starts_at_the_peak_and_ends_at_the_final_rate() -> None:
    rate = schedule(name=Shape.cosine, warmup_epochs=1.0, final_learning_rate=0.1)
    assert rate(10) == pytest.approx(1.0)
    assert rate(99) == pytest.approx(0.1)
    middle = 10 + 89 * 0.5
    assert (rate(math.floor(middle)) + rate(math.ceil(middle))) / 2 == pytest.approx(0.55, abs=1e-3)


def test_one_cycle_rises_and_falls_smoothly() -> None:
    rate = schedule(name=Shape.one_cycle, warmup_epochs=3.0, warmup_learning_rate=0.0)
    rates = [rate(step) for step in range(100)]
    assert rates.index(max(rates)) == 30
    assert rates[15] == pytest.approx(0.5)
    assert rates[1] < 1 / 30  # a cosine starts slower than a line
    assert rates[99] == pytest.approx(0.0)


def test_step_falls_at_its_epochs() -> None:
    rate = schedule(name=Shape.step, step_epochs=[3.0, 6.0], step_factor=0.5)
    assert [rate(step) for step in (0, 29, 30, 59, 60, 99)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@given(
    st.sampled_from([Shape.constant, Shape.cosine, Shape.one_cycle]),
    st.floats(0, 9.9),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_rate_stays_within_its_bounds(shape: Shape, warmup: float, first: float, final: float, step: int) -> None:
    rate = schedule(name=shape, warmup_epochs=warmup, warmup_learning_rate=first, final_learning_rate=final)
    assert -1e-12 <= rate(step) <= 1 + 1e-12
