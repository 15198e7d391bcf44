"""From Hydra's sweep values to Optuna's distributions."""

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tnt_exp.config import InputError


def distribution(key: str, override: Override) -> BaseDistribution:
    """What a key is drawn from.

    `a,b,c` is drawn as names without an order, `range(...)` as numbers with one, `interval(...)` as real numbers
    (`int(interval(...))`: whole ones), `tag(log,...)` on a logarithmic scale.

    Raises:
        InputError: The values cannot be drawn from.
    """
    values = override.value()
    if isinstance(values, IntervalSweep):
        low, high = values.start, values.end
        log = "log" in values.tags
        if low is None or high is None or low >= high or (log and low <= 0):
            expected = "0 < low < high" if log else "low < high"
            raise InputError(f"{key}: expected interval(low,high) with {expected}, received {override.input_line}.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(low, high, log=log)
    if isinstance(values, RangeSweep) and override.is_discrete_sweep():
        numbers = [float(value) for value in override.sweep_string_iterator()]
        if not numbers:
            raise InputError(f"{key}: expected at least one value, received {override.input_line}.")
        low, high, step = min(numbers), max(numbers), abs(float(values.step))
        if all(number.is_integer() for number in numbers):
            return IntDistribution(int(low), int(high), step=int(step) if step >= 1 else 1)
        return FloatDistribution(low, high, step=step)
    if isinstance(values, ChoiceSweep) or override.is_discrete_sweep():
        return CategoricalDistribution([str(value) for value in override.sweep_string_iterator()])
    raise InputError(f"{key}: expected a list, range(...) or interval(...), received {override.input_line}.")


def text(value: object) -> str:
    """A drawn value as it is written in an override; real numbers with every digit."""
    return repr(value) if isinstance(value, float) else str(value)
