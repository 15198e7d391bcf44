"""How long to train, on what, and what is kept."""

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from tnt_exp.config.field import config_field


class Backend(Enum):
    """The backend of Keras."""

    tensorflow = "tensorflow"
    jax = "jax"
    torch = "torch"


class Distributed(Enum):
    """Whether other processes share each batch."""

    none = "none"
    auto = "auto"  # those that Slurm, Open MPI or JAX_COORDINATOR_ADDRESS name, on JAX


class Precision(Enum):
    """The dtype policy of Keras."""

    auto = "auto"  # what is faster on the device (`tnt_exp.training.device.faster_precision`)
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

    best = "best"  # highest `trainer.monitor` on validation; the last epoch if there is no validation
    last = "last"


class Monitor(Enum):
    """The validation metric by which epochs are compared."""

    accuracy = "accuracy"
    balanced_accuracy = "balanced_accuracy"
    macro_f1 = "macro_f1"


class Freeze(Enum):
    """Which weights are frozen."""

    nothing = "nothing"
    backbone = "backbone"  # all but the head and the final norm
    all_but_head = "all_but_head"


class Resume(Enum):
    """What happens if the run folder exists."""

    auto = "auto"  # continue from its newest checkpoint
    never = "never"  # begin anew in another folder


class OnNan(Enum):
    """What happens if the loss or the state is infinite or not a number."""

    stop = "stop"  # the run fails; its checkpoints are valid
    rollback = "rollback"  # continue from the end of the last good epoch with a lower learning rate


@dataclass
class CheckpointConfig:
    """When the state of a run is written, besides its end and each stop by a signal."""

    every: float = config_field(10.0, "minutes between two checkpoints", gt=0)
    steps: int | None = config_field(None, "a checkpoint once so many steps have passed; null: by time only", ge=1)
    keep: int = config_field(2, "checkpoints kept", ge=1)


@dataclass
class TrainerConfig:
    """The training loop."""

    epochs: int = config_field(40, "passes over the training images, or parts of steps_per_epoch", ge=1)
    steps_per_epoch: int | None = config_field(
        None, "steps of an epoch, however many images there are; null: one pass over them", ge=1
    )
    batch_size: int = config_field(64, "images per step", ge=1)
    label_smoothing: float = config_field(0.1, "fraction of the label that is spread over all classes", ge=0, lt=1)
    class_weights: Any = config_field(
        "none", "weights of the classes in the loss: none, balanced (inverse frequency), or {class: weight, ...}"
    )
    test_time_flip: bool | None = config_field(
        False, "validation and test average the logits of an image and its mirror image; null: if training mirrors"
    )
    select: Select = config_field(Select.best, "which epoch's weights are tested and kept")
    monitor: Monitor = config_field(
        Monitor.accuracy, "validation metric by which epochs are compared, equal ones by loss"
    )
    patience: int | None = config_field(
        None, "stop after this many epochs without a better one by trainer.monitor; null: never", ge=1
    )
    backend: Backend = config_field(Backend.tensorflow, "backend of Keras")
    devices: int | None = config_field(
        1, "GPUs (on TensorFlow and JAX) that share each batch of one run; null: all of this machine", ge=1
    )
    distributed: Distributed = config_field(
        Distributed.none, "auto: the processes of Slurm, Open MPI or JAX_COORDINATOR_ADDRESS share each batch (on JAX)"
    )
    precision: Precision = config_field(Precision.float32, "dtype policy of Keras; auto: what is faster on the device")
    tf32: bool = config_field(True, "products of float32 on a GPU round their factors to TF32, 10 bits of mantissa")
    xla: Compile = config_field(Compile.auto, "compile the step with XLA")
    deterministic: bool = config_field(False, "only operations that are reproducible to the bit")
    steps_per_dispatch: int | None = config_field(None, "steps per call of the device; null: chosen by device", ge=1)
    resume: Resume = config_field(Resume.auto, "an existing run folder is continued, or left alone")
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    on_nan: OnNan = config_field(OnNan.stop, "what happens when the loss is infinite or not a number")
    rollback_factor: float = config_field(0.5, "learning rate after a rollback / before", gt=0, lt=1)
    rollbacks: int = config_field(3, "rollbacks of a run, at most; then it stops", ge=1)
    freeze: Freeze = config_field(Freeze.nothing, "which weights are frozen (fine-tuning)")
    layer_decay: float = config_field(1.0, "learning rate of a block / that of the next (fine-tuning)", gt=0, le=1)
    profile: bool = config_field(False, "trace five of the first training steps, into the run folder's profile/")
    remat: bool = config_field(False, "recompute blocks in the backward pass: less memory, more time")

    def with_precision(self, recorded: str | None) -> "TrainerConfig":
        """Return this section with the precision in which its run began in place of `auto`; None: none is recorded."""
        if self.precision is not Precision.auto or recorded is None:
            return self
        return replace(self, precision=Precision(recorded))
