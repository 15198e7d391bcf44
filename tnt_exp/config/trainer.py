"""How long, on what, and what is kept."""

from dataclasses import dataclass
from enum import Enum

from tnt_exp.config.options import option


class Backend(Enum):
    """The backend of Keras."""

    tensorflow = "tensorflow"
    jax = "jax"
    torch = "torch"


class Precision(Enum):
    """The dtype policy of Keras."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


class Compile(Enum):
    """Whether XLA compiles the step."""

    auto = "auto"  # on a GPU, and always on JAX
    always = "always"
    never = "never"


class Select(Enum):
    """Which epoch's weights are tested and kept."""

    best = "best"  # highest validation accuracy; the last where there is no validation
    last = "last"


class Freeze(Enum):
    """Which weights stand still."""

    nothing = "nothing"
    backbone = "backbone"  # all but the head and the final norm
    all_but_head = "all_but_head"


@dataclass
class TrainerConfig:
    """The training loop."""

    epochs: int = option(40, "passes over the training images", least=1)
    batch_size: int = option(64, "images a step", least=1)
    label_smoothing: float = option(0.1, "part of the label spread over all classes", least=0, below=1)
    select: Select = option(Select.best, "which epoch's weights are tested and kept")
    patience: int | None = option(
        None, "stop after this many epochs without a better validation accuracy; null: never", least=1
    )
    backend: Backend = option(Backend.tensorflow, "backend of Keras")
    precision: Precision = option(Precision.float32, "dtype policy of Keras; mixed_bfloat16 pays on a GPU")
    xla: Compile = option(Compile.auto, "compile the step with XLA")
    deterministic: bool = option(False, "only operations that give the same bits every time")
    steps_per_dispatch: int | None = option(None, "steps a call of the device; null: chosen by device", least=1)
    freeze: Freeze = option(Freeze.nothing, "which weights stand still (fine-tuning)")
    layer_decay: float = option(1.0, "learning rate of a block / that of the next (fine-tuning)", above=0, most=1)
    remat: bool = option(False, "recompute blocks in the backward pass: less memory, more time")
