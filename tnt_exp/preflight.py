"""Whether a configuration can run."""

# MERGED DOCS:
# """What a point will take, counted before it runs."""

from dataclasses import dataclass
from pathlib import Path

from tnt_exp import data
from tnt_exp.config import Config, validation
from tnt_exp.errors import UserError
from tnt_exp.model import cost
from tnt_exp.training import device


def preflight(config: Config) -> None:
    """Everything that can be found without reading data or importing a backend.

    Raises:
        UserError: The configuration cannot run.
    """
    facts = data.dataset_info(config.dataset)
    validation.validate(config, channels=facts.channels, train_images=facts.train)
    data.validate(config.dataset)
    device.check_backend(config.trainer)
    if config.model.weights is not None and not Path(config.model.weights).is_file():
        raise UserError(f"model.weights: expected a .safetensors or .pth file, found none at {config.model.weights}.")


@dataclass(frozen=True)
class ResourceEstimate:
    """What a point will take.

    Attributes:
        parameters: Numbers that are learnt.
        macs: Multiply-accumulate operations of a forward pass of one image.
        bytes: Of a training step, by an estimate: activations of a batch, four copies of the parameters.
    """

    parameters: int
    macs: int
    bytes: int


def estimate_resources(config: Config) -> ResourceEstimate | None:
    """What a point will take; None where classes and channels are known only after reading the data."""
    facts = data.dataset_info(config.dataset)
    if facts.classes is None or facts.channels is None:
        return None
    parameters = cost.parameters(config.model, facts.classes, facts.channels)
    trainer = config.trainer
    width = 4 if trainer.precision.value == "float32" else 2
    activations = cost.activation_bytes(config.model, facts.classes, facts.channels, width=width, remat=trainer.remat)
    # Parameters, gradients and two moments of the optimizer, in float32.
    return ResourceEstimate(
        parameters,
        cost.macs(config.model, facts.classes, facts.channels),
        activations * trainer.batch_size + 16 * parameters,
    )
