"""The configured Keras optimizer, the moving average of weights that it keeps, and the learning rate schedule."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import keras
from keras import ops

from tnt_exp.config.optimizer import Algorithm, Decay, OptimizerConfig, ScheduleConfig, Shape
from tnt_exp.model.fine_tuning import is_hidden_matrix
from tnt_exp.training.flat_optimizer import FlatOptimizer


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
        return (
            config.final_learning_rate
            + (self.peak - config.final_learning_rate) * (1 + math.cos(math.pi * fraction)) / 2
        )
