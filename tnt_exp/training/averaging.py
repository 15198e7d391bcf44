"""The exponential moving average of weights, beside the weights themselves."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras import ops


@contextmanager
def averaged(network: Any, optimizer: Any) -> Iterator[None]:
    """Within the block the network has the averaged weights, where the optimizer keeps them.

    The step's variables must be up to date (`Step.pull`).
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not inner.use_ema:
        yield
        return
    variables = network.trainable_variables
    raw = [ops.copy(variable.value) for variable in variables]
    for variable, average in zip(variables, inner._model_variables_moving_average, strict=True):
        variable.assign(ops.copy(average.value))  # Keras' evaluation on JAX destroys the arrays it is given
    try:
        yield
    finally:
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)
