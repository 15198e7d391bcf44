"""An optimizer that sees the weights of a network as a few long vectors.

An update takes a dozen small operations per variable, and a network has hundreds of variables: cheap to compute, but
slow to trace, to optimise and to launch. Concatenated, all variables with the same settings are updated as one; the
results are the same.
"""

import itertools
import math
from collections.abc import Sequence

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor


class FlatOptimizer:
    """A Keras optimizer, and the vectors that it updates in place of a network's variables.

    Args:
        optimizer: Not built yet.
        variables: Trainable variables.
        is_decayed: For each variable, whether weight decay applies.
        learning_rate_factors: For each variable, what the learning rate is multiplied by.
        separate: For each variable, whether it must not be concatenated: its update depends on its shape (Muon).
        scale_loss: Scale the loss, as float16 needs.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        variables: Sequence[keras.Variable],
        is_decayed: Sequence[bool],
        learning_rate_factors: Sequence[float],
        *,
        separate: Sequence[bool],
        scale_loss: bool,
    ) -> None:
        groups: dict[tuple[str, bool, float, int | None], list[keras.Variable]] = {}
        settings = zip(variables, is_decayed, learning_rate_factors, separate, strict=True)
        for index, (variable, decayed, factor, alone) in enumerate(settings):
            groups.setdefault((variable.dtype, decayed, factor, index if alone else None), []).append(variable)
        self._variables = list(variables)
        self._groups = list(groups.values())
        self._vectors = [_make_vector(group) for group in self._groups]
        self._factors = [factor for _, _, factor, _ in groups]
        excluded = [vector for vector, (_, decayed, *_) in zip(self._vectors, groups, strict=True) if not decayed]
        if optimizer.weight_decay and excluded:
            optimizer.exclude_from_weight_decay(var_list=excluded)
        self._inner = optimizer
        self._optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scale_loss else optimizer
        self._optimizer.build(self._vectors)
        # `apply` averages: Keras would do it before an update is scaled, and where gradients are only accumulated.
        self._averages = optimizer._model_variables_moving_average if optimizer.use_ema else []  # Keras 3.15: private
        optimizer.use_ema = False
        self.copy_from_variables()

    @property
    def variables(self) -> list[keras.Variable]:
        """The optimizer's own variables: moments, averages, number of updates."""
        variables: list[keras.Variable] = self._optimizer.variables
        return variables

    @property
    def learning_rate(self) -> keras.Variable:
        """The variable that holds the learning rate."""
        return self._inner._learning_rate  # Keras 3.15: `learning_rate` is a property that reads the value

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss scaled as `apply` expects its gradients."""
        return self._optimizer.scale_loss(loss)

    @property
    def vectors(self) -> list[keras.Variable]:
        """The variables that are updated: each holds a group of the network's variables, or is one of them."""
        return list(self._vectors)

    def flatten(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Concatenate values (or gradients) of the network's variables to those of the vectors."""
        found = dict(zip(map(id, self._variables), values, strict=True))
        return [_flatten([found[id(variable)] for variable in group]) for group in self._groups]

    def unflatten(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Split values of the vectors to those of the network's variables."""
        found = {
            id(variable): part
            for value, group in zip(values, self._groups, strict=True)
            for variable, part in zip(group, _unflatten(value, group), strict=True)
        }
        return [found[id(variable)] for variable in self._variables]

    def copy_from_variables(self) -> None:
        """Copy the variables to the vectors, after anything but `copy_to_variables` has changed them."""
        for vector, group in zip(self._vectors, self._groups, strict=True):
            if vector is not group[0]:
                vector.assign(_flatten(group))

    def copy_to_variables(self) -> None:
        """Copy the vectors to the variables, before anything but `apply` reads them."""
        for vector, group in zip(self._vectors, self._groups, strict=True):
            if vector is not group[0]:
                for variable, value in zip(group, _unflatten(vector, group), strict=True):
                    variable.assign(value)

    def apply(self, gradients: Sequence[Tensor]) -> None:
        """Update the vectors by their gradients, and then the averages.

        With accumulation, only every so many calls make an update; nor does one whose scaled gradients overflow.
        """
        updates = ops.copy(self._inner.iterations)
        # The update is scaled, not the gradient: this scales the learning rate of every optimizer, decay included.
        before = [
            None if factor == 1 else ops.copy(vector)
            for vector, factor in zip(self._vectors, self._factors, strict=True)
        ]
        self._optimizer.apply(gradients, self._vectors)
        for vector, old, factor in zip(self._vectors, before, self._factors, strict=True):
            if old is not None:
                vector.assign(old + factor * (vector - old))
        if self._averages:
            # The average begins as the weights after the first update.
            momentum = ops.where(updates > 0, self._inner.ema_momentum, 0.0)
            momentum = ops.where(self._inner.iterations > updates, momentum, 1.0)
            for vector, average in zip(self._vectors, self._averages, strict=True):
                average.assign(momentum * average + (1 - momentum) * vector)

    def ema_values(self) -> list[Tensor] | None:
        """Return the moving average of each of the network's variables, or None if none is kept.

        Before the first update these are the variables themselves.
        """
        if not self._averages:
            return None
        chosen = self._inner.iterations > 0
        pairs = zip(self._averages, self._vectors, strict=True)
        return self.unflatten([ops.where(chosen, average.value, vector.value) for average, vector in pairs])


def _make_vector(group: Sequence[keras.Variable]) -> keras.Variable:
    """Return the vector that holds a group; a single variable is its own."""
    if len(group) == 1:
        return group[0]
    size = sum(math.prod(variable.shape) for variable in group)
    return keras.Variable(ops.zeros((size,), group[0].dtype), name="weights")


def _flatten(values: Sequence[Tensor]) -> Tensor:
    if len(values) == 1:
        return values[0]
    return ops.concatenate([value if len(value.shape) == 1 else ops.reshape(value, (-1,)) for value in values])


def _unflatten(vector: Tensor, group: Sequence[keras.Variable]) -> list[Tensor]:
    """Split a vector into values of the shapes of its group."""
    if len(group) == 1:
        return [vector]
    ends = itertools.accumulate(math.prod(variable.shape) for variable in group[:-1])
    parts = zip(ops.split(vector, list(ends)), group, strict=True)
    return [part if len(variable.shape) == 1 else ops.reshape(part, variable.shape) for part, variable in parts]
