"""The optimizer of Keras that the configuration asks for."""

# MERGED DOCS:
# """The exponential moving average of weights, beside the weights themselves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops

from tnt_exp.config.optimizer import Algorithm, Decay, OptimizerConfig
from tnt_exp.training.flat_optimizer import FlatOptimizer


def build_optimizer(
    config: OptimizerConfig,
    variables: Sequence[Any],
    decays: Callable[[Any], bool],
    *,
    factors: Sequence[float] | None = None,
    scale_loss: bool,
) -> FlatOptimizer:
    """An optimizer built for `variables`.

    Args:
        config: What to build.
        variables: Trainable variables.
        decays: Whether a variable decays where `config.decay` is `matrices`.
        factors: For each variable, what its learning rate is multiplied by; None: 1 for all.
        scale_loss: Scale the loss, as float16 needs.
    """
    optimizer = _ALGORITHMS[config.name](
        config,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        global_clipnorm=config.clip_norm,
        use_ema=config.ema is not None,
        ema_momentum=config.ema or 0.99,
        gradient_accumulation_steps=config.accumulation if config.accumulation > 1 else None,
    )
    return FlatOptimizer(
        optimizer,
        variables,
        [config.decay is not Decay.matrices or decays(variable) for variable in variables],
        factors or [1.0] * len(variables),
        join=config.name is not Algorithm.muon,  # which is of matrices
        scale_loss=scale_loss,
    )


def _adamw(config: OptimizerConfig, **common: Any) -> Any:
    return keras.optimizers.AdamW(beta_1=config.beta_1, beta_2=config.beta_2, epsilon=config.epsilon, **common)


def _sgd(config: OptimizerConfig, **common: Any) -> Any:
    return keras.optimizers.SGD(momentum=config.momentum, nesterov=config.nesterov, **common)


def _lion(config: OptimizerConfig, **common: Any) -> Any:
    return keras.optimizers.Lion(beta_1=config.beta_1, beta_2=config.beta_2, **common)


def _muon(config: OptimizerConfig, **common: Any) -> Any:
    return keras.optimizers.Muon(
        adam_beta_1=config.beta_1,
        adam_beta_2=config.beta_2,
        epsilon=config.epsilon,
        momentum=config.momentum,
        nesterov=config.nesterov,
        **common,
    )


_ALGORITHMS = {Algorithm.adamw: _adamw, Algorithm.sgd: _sgd, Algorithm.lion: _lion, Algorithm.muon: _muon}


@contextmanager
def ema_weights(network: Any, optimizer: FlatOptimizer) -> Iterator[None]:
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
