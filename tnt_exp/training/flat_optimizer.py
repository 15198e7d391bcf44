"""An optimizer that sees the weights of a network as a few long vectors.

An update makes a dozen small operations of each variable, and a network has hundreds: they cost little to compute, and
much to trace, to optimise and to start. Joined, the variables that are updated alike are one; the numbers are the same.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class FlatOptimizer:
    """A Keras optimizer and the vectors that it updates in place of a network's variables.

    Args:
        optimizer: Not built yet.
        variables: Trainable variables.
        decays: Whether each may decay.
        factors: What the learning rate of each is multiplied by.
        join: Whether variables may be joined; not where an update depends on their shape.
        scale_loss: Scale the loss, as float16 needs.
    """

    def __init__(
        self,
        optimizer: Any,
        variables: Sequence[Any],
        decays: Sequence[bool],
        factors: Sequence[float],
        *,
        join: bool,
        scale_loss: bool,
    ) -> None:
        groups: dict[Any, list[Any]] = {}
        for place, (variable, *alike) in enumerate(zip(variables, decays, factors, strict=True)):
            groups.setdefault((variable.dtype, *alike, None if join else place), []).append(variable)
        self._variables = list(variables)
        self._groups = list(groups.values())
        self._vectors = [_make_vector(group) for group in self._groups]
        self._factors = [factor for _, _, factor, _ in groups]
        spared = [vector for vector, (_, may, *_) in zip(self._vectors, groups, strict=True) if not may]
        if optimizer.weight_decay and spared:
            optimizer.exclude_from_weight_decay(var_list=spared)
        self._inner = optimizer
        self._optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scale_loss else optimizer
        self._optimizer.build(self._vectors)
        self.gather()

    @property
    def variables(self) -> list[Any]:
        """The optimizer's own: moments, averages, number of updates."""
        found: list[Any] = self._optimizer.variables
        return found

    @property
    def rate(self) -> Any:
        """The variable that holds the learning rate."""
        return self._inner._learning_rate

    def scale_loss(self, loss: Any) -> Any:
        """The loss whose gradient `apply` expects."""
        return self._optimizer.scale_loss(loss)

    @property
    def vectors(self) -> list[Any]:
        """The variables that are updated: each a group of the network's, or one of its own."""
        return list(self._vectors)

    def joined(self, values: Sequence[Any]) -> list[Any]:
        """Of values of the network's variables, or gradients to them, those of the vectors."""
        found = dict(zip(map(id, self._variables), values, strict=True))
        return [_flatten([found[id(variable)] for variable in group]) for group in self._groups]

    def parted(self, values: Sequence[Any]) -> list[Any]:
        """Of values of the vectors those of the network's variables."""
        found = {
            id(variable): part
            for value, group in zip(values, self._groups, strict=True)
            for variable, part in zip(group, _unflatten(value, group), strict=True)
        }
        return [found[id(variable)] for variable in self._variables]

    def gather(self) -> None:
        """The vectors take the values of the variables, where anything but `scatter` has changed those."""
        for vector, group in zip(self._vectors, self._groups, strict=True):
            if vector is not group[0]:
                vector.assign(_flatten(group))

    def scatter(self) -> None:
        """The variables take the values of the vectors, before anything but `apply` reads them."""
        for vector, group in zip(self._vectors, self._groups, strict=True):
            if vector is not group[0]:
                for variable, value in zip(group, _unflatten(vector, group), strict=True):
                    variable.assign(value)

    def apply(self, slopes: Sequence[Any]) -> None:
        """Move the vectors by the gradients to them."""
        # Scaling the update scales the learning rate of every optimizer, decay included; scaling a gradient would not.
        before = [
            None if factor == 1 else ops.copy(vector)
            for vector, factor in zip(self._vectors, self._factors, strict=True)
        ]
        self._optimizer.apply(slopes, self._vectors)
        for vector, old, factor in zip(self._vectors, before, self._factors, strict=True):
            if old is not None:
                vector.assign(old + factor * (vector - old))

    def averages(self) -> list[Any] | None:
        """The moving average of each variable, a new tensor; None: none is kept."""
        if not self._inner.use_ema:
            return None
        return self.parted([ops.copy(vector.value) for vector in self._inner._model_variables_moving_average])


def _make_vector(group: Sequence[Any]) -> Any:
    """What stands for a group; a variable for itself."""
    if len(group) == 1:
        return group[0]
    size = sum(math.prod(variable.shape) for variable in group)
    return keras.Variable(ops.zeros((size,), group[0].dtype), name="weights")


def _flatten(values: Sequence[Any]) -> Any:
    if len(values) == 1:
        return values[0]
    return ops.concatenate([value if len(value.shape) == 1 else ops.reshape(value, (-1,)) for value in values])


def _unflatten(vector: Any, group: Sequence[Any]) -> list[Any]:
    """The parts of a vector, in the shapes of its group."""
    if len(group) == 1:
        return [vector]
    ends = itertools.accumulate(math.prod(variable.shape) for variable in group[:-1])
    parts = zip(ops.split(vector, list(ends)), group, strict=True)
    return [part if len(variable.shape) == 1 else ops.reshape(part, variable.shape) for part, variable in parts]
