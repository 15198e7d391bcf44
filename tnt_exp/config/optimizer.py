"""The optimizer and the learning rate schedule."""

from dataclasses import dataclass
from enum import Enum

from tnt_exp.config.field import config_field


class Algorithm(Enum):
    """An optimizer of Keras."""

    adamw = "adamw"
    sgd = "sgd"
    lion = "lion"
    muon = "muon"


class Decay(Enum):
    """Which weights decay."""

    all = "all"
    matrices = "matrices"  # not biases, norms, positions, class token


@dataclass
class OptimizerConfig:
    """An optimizer of Keras. Decay is decoupled and multiplied by the learning rate, as Keras does."""

    name: Algorithm = config_field(Algorithm.adamw, "optimizer of Keras")
    learning_rate: float = config_field(1e-3, "peak learning rate", gt=0)
    weight_decay: float = config_field(0.05, "decoupled decay, multiplied by the learning rate", ge=0)
    decay: Decay = config_field(Decay.matrices, "which weights decay")
    beta_1: float = config_field(0.9, "adamw, lion, muon: first moment", ge=0, lt=1)
    beta_2: float = config_field(0.999, "adamw, lion, muon: second moment", ge=0, lt=1)
    epsilon: float = config_field(1e-7, "adamw, muon: added to the denominator", gt=0)
    momentum: float = config_field(0.9, "sgd, muon: momentum", ge=0, lt=1)
    nesterov: bool = config_field(False, "sgd, muon: Nesterov's momentum")
    clip_norm: float | None = config_field(None, "largest global norm of the gradient; null: no clipping", gt=0)
    ema: float | None = config_field(
        None, "momentum of the average of weights, evaluated beside them; null: none", gt=0, lt=1
    )
    accumulation: int = config_field(1, "batches whose gradients are averaged for one update, also across epochs", ge=1)


class Shape(Enum):
    """The shape of the learning rate schedule."""

    constant = "constant"
    cosine = "cosine"
    one_cycle = "one_cycle"
    step = "step"


@dataclass
class ScheduleConfig:
    """The learning rate as a function of the training step."""

    name: Shape = config_field(Shape.constant, "schedule of the learning rate after the warm-up")
    warmup_epochs: float = config_field(0.0, "linear warm-up, epochs", ge=0)
    warmup_learning_rate: float = config_field(1e-6, "learning rate of the first step of the warm-up", ge=0)
    final_learning_rate: float = config_field(0.0, "cosine, one_cycle: learning rate of the last step", ge=0)
    step_epochs: list[float] = config_field([], "step: epochs at which the rate falls", gt=0)
    step_factor: float = config_field(0.1, "step: what the rate is multiplied by", gt=0, le=1)
