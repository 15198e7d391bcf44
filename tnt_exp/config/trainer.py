"""How long, on what, and what is kept."""

from dataclasses import dataclass, field
from enum import Enum

from tnt_exp.config.field import config_field


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


class Resume(Enum):
    """What a run folder that is already there means."""

    auto = "auto"  # go on from its newest checkpoint
    never = "never"  # begin anew, in a folder beside it


class OnNan(Enum):
    """What happens when the loss, or the state, is infinite or not a number."""

    stop = "stop"  # the run fails; its checkpoints are good
    rollback = "rollback"  # back to the end of the epoch before, and on with a lower learning rate


@dataclass
class CheckpointConfig:
    """When the state of a run is written. It is always written when a signal stops the run, and at the end."""

    every: float = config_field(10.0, "minutes between two checkpoints", above=0)
    steps: int | None = config_field(
        None, "training steps between two checkpoints, besides; null: by time alone", least=1
    )
    keep: int = config_field(2, "checkpoints kept", least=1)


@dataclass
class TrainerConfig:
    """The training loop."""

    epochs: int = config_field(40, "passes over the training images", least=1)
    batch_size: int = config_field(64, "images a step", least=1)
    label_smoothing: float = config_field(0.1, "part of the label spread over all classes", least=0, below=1)
    test_time_flip: bool = config_field(
        False, "validation and test take the mean of the logits of an image and of its mirror"
    )
    select: Select = config_field(Select.best, "which epoch's weights are tested and kept")
    patience: int | None = config_field(
        None, "stop after this many epochs without a better validation accuracy; null: never", least=1
    )
    backend: Backend = config_field(Backend.tensorflow, "backend of Keras")
    devices: int | None = config_field(
        1, "GPUs (on TensorFlow and JAX) that share each batch of one run; null: all there are", least=1
    )
    precision: Precision = config_field(Precision.float32, "dtype policy of Keras; mixed_bfloat16 pays on a GPU")
    xla: Compile = config_field(Compile.auto, "compile the step with XLA")
    deterministic: bool = config_field(False, "only operations that give the same bits every time")
    steps_per_dispatch: int | None = config_field(None, "steps a call of the device; null: chosen by device", least=1)
    resume: Resume = config_field(Resume.auto, "a run folder that is already there is continued, or left alone")
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_nan: OnNan = config_field(OnNan.stop, "what happens when the loss is infinite or not a number")
    rollback_factor: float = config_field(0.5, "learning rate after a rollback / before", above=0, below=1)
    rollbacks: int = config_field(3, "rollbacks of a run, at most; then it stops", least=1)
    freeze: Freeze = config_field(Freeze.nothing, "which weights stand still (fine-tuning)")
    layer_decay: float = config_field(1.0, "learning rate of a block / that of the next (fine-tuning)", above=0, most=1)
    profile: bool = config_field(False, "trace five of the first training steps, into the run folder's profile/")
    remat: bool = config_field(False, "recompute blocks in the backward pass: less memory, more time")
