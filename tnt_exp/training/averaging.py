"""The exponential moving average of weights, beside the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras import ops

from tnt_exp.training.packed import Packed


@contextmanager
def averaged(network: Any, optimizer: Packed) -> Iterator[None]:
    """Within the block the network has the averaged weights, where the optimizer keeps them.

    The step's variables must be up to date (`Step.pull`).
    """
    averages = optimizer.averages()
    if averages is None:
        yield
        return
    variables = network.trainable_variables
    raw = [ops.copy(variable.value) for variable in variables]
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(average)
    try:
        yield
    finally:
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)
