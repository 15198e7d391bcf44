"""The configured Keras optimizer, the moving average of weights that it keeps, and the learning rate schedule."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.config.optimizer import Algorithm, Decay, OptimizerConfig, ScheduleConfig, Shape
from tnt_exp.model.fine_tuning import is_hidden_matrix


class FlatOptimizer:
    """A Keras optimizer that sees the weights of a network as a few long vectors.

    An update takes a dozen small operations per variable, and a network has hundreds of variables: cheap to compute,
    but slow to trace, to optimise and to launch. Concatenated, all variables with the same settings are updated as
    one; the results are the same.

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
        # What is updated: each holds a group of the network's variables, or is one of them.
        self.vectors = [_make_vector(group) for group in self._groups]
        self._factors = [factor for _, _, factor, _ in groups]
        excluded = [vector for vector, (_, decayed, *_) in zip(self.vectors, groups, strict=True) if not decayed]
        if optimizer.weight_decay and excluded:
            optimizer.exclude_from_weight_decay(var_list=excluded)
        self._inner = optimizer
        self._optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scale_loss else optimizer
        self._optimizer.build(self.vectors)
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
        for vector, group in zip(self.vectors, self._groups, strict=True):
            if vector is not group[0]:
                vector.assign(_flatten(group))

    def copy_to_variables(self) -> None:
        """Copy the vectors to the variables, before anything but `apply` reads them."""
        for vector, group in zip(self.vectors, self._groups, strict=True):
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
            for vector, factor in zip(self.vectors, self._factors, strict=True)
        ]
        self._optimizer.apply(gradients, self.vectors)
        for vector, old, factor in zip(self.vectors, before, self._factors, strict=True):
            if old is not None:
                vector.assign(old + factor * (vector - old))
        if self._averages:
            # The average begins as the weights after the first update.
            momentum = ops.where(updates > 0, self._inner.ema_momentum, 0.0)
            momentum = ops.where(self._inner.iterations > updates, momentum, 1.0)
            for vector, average in zip(self.vectors, self._averages, strict=True):
                average.assign(momentum * average + (1 - momentum) * vector)

    def ema_values(self) -> list[Tensor] | None:
        """Return the moving average of each of the network's variables, or None if none is kept.

        Before the first update these are the variables themselves.
        """
        if not self._averages:
            return None
        chosen = self._inner.iterations > 0
        pairs = zip(self._averages, self.vectors, strict=True)
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


def build_optimizer(
    config: OptimizerConfig,
    variables: Sequence[keras.Variable],
    is_decayed: Callable[[keras.Variable], bool],
    *,
    is_hidden: Callable[[keras.Variable], bool] = is_hidden_matrix,
    learning_rate_factors: Sequence[float] | None = None,
    scale_loss: bool,
) -> FlatOptimizer:
    """Build the optimizer of trainable variables.

    Where `config.decay` is `matrices`, `is_decayed` decides whether weight decay applies to a variable. Muon updates
    the variables of `is_hidden`, and AdamW the others. The learning rate of each variable is multiplied by its
    factor (None: 1 for all). float16 needs `scale_loss`.
    """
    algorithm, arguments = _ALGORITHMS[config.name]
    optimizer = algorithm(
        **{argument: getattr(config, argument.removeprefix("adam_")) for argument in arguments.split()},
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm,
        use_ema=config.ema is not None,
        ema_momentum=config.ema or 0.99,
        gradient_accumulation_steps=config.accumulation if config.accumulation > 1 else None,
    )
    hidden = {id(variable) for variable in variables if config.name is Algorithm.muon and is_hidden(variable)}
    # Of Muon alone; Keras 3.15 (private) would choose by the names of layers.
    optimizer._should_use_adamw = lambda variable: id(variable) not in hidden
    return FlatOptimizer(
        optimizer,
        variables,
        [config.decay is not Decay.matrices or is_decayed(variable) for variable in variables],
        learning_rate_factors or [1.0] * len(variables),
        separate=[id(variable) in hidden for variable in variables],
        scale_loss=scale_loss,
    )


# The class of Keras, and its arguments that are keys of `OptimizerConfig` (but for Muon's prefix).
_ALGORITHMS: dict[Algorithm, tuple[type[keras.optimizers.Optimizer], str]] = {
    Algorithm.adamw: (keras.optimizers.AdamW, "beta_1 beta_2 epsilon"),
    Algorithm.sgd: (keras.optimizers.SGD, "momentum nesterov"),
    Algorithm.lion: (keras.optimizers.Lion, "beta_1 beta_2"),
    Algorithm.muon: (keras.optimizers.Muon, "adam_beta_1 adam_beta_2 adam_weight_decay epsilon momentum nesterov"),
}


@contextmanager
def ema_weights(network: keras.Model, optimizer: FlatOptimizer) -> Iterator[None]:
    """Give the network the averaged weights within the block, if the optimizer keeps averages.

    The variables must be up to date (`TrainStep.sync_to_model`).
    """
    averages = optimizer.ema_values()
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


@dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate of each step, computed on the host and passed to the compiled step."""

    config: ScheduleConfig
    peak: float  # the highest learning rate
    steps_per_epoch: int  # updates
    epochs: int

    def __call__(self, step: int) -> float:
        """Return the learning rate of step 0, 1, ..."""
        config = self.config
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        if step < warmup:
            fraction = step / warmup
            if config.name is Shape.one_cycle:
                fraction = (1 - math.cos(math.pi * fraction)) / 2
            return config.warmup_learning_rate + (self.peak - config.warmup_learning_rate) * fraction
        if config.name is Shape.constant:
            return self.peak
        if config.name is Shape.step:
            drops = sum(step >= epoch * self.steps_per_epoch for epoch in config.step_epochs)
            return self.peak * config.step_factor**drops
        # The last step has the final rate, the first after the warm-up the peak.
        last = self.epochs * self.steps_per_epoch - 1
        fraction = min(1.0, (step - warmup) / max(1, last - warmup))
        final = config.final_learning_rate
        return final + (self.peak - final) * (1 + math.cos(math.pi * fraction)) / 2
