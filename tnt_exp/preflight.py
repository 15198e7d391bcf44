"""What is checked and computed about a configuration before anything slow is imported."""

from dataclasses import dataclass

from tnt_exp import data
from tnt_exp.config import Config, validation
from tnt_exp.model import cost
from tnt_exp.model.weights_file import check_weights
from tnt_exp.training import device


def preflight(config: Config) -> None:
    """Raise `UserError` for everything that is wrong and can be found without reading data or importing a backend."""
    info = data.dataset_info(config.dataset)
    validation.validate(config, channels=info.channels, train_images=info.train)
    data.validate(config.dataset)
    device.check_backend(config.trainer)
    if config.model.weights is not None:
        check_weights(config.model)


@dataclass(frozen=True)
class ResourceEstimate:
    """The estimated cost of a run."""

    parameters: int  # trainable numbers
    macs: int  # multiply-accumulate operations of a forward pass per image
    bytes: int  # memory of a training step: activations of a batch, four copies of the parameters


def estimate_resources(config: Config) -> ResourceEstimate | None:
    """Return the cost of a run; None if classes or channels are known only after reading the data."""
    info = data.dataset_info(config.dataset)
    if info.classes is None or info.channels is None:
        return None
    parameters = cost.parameters(config.model, info.classes, info.channels)
    trainer = config.trainer
    width = 2 if trainer.precision.value.startswith("mixed") else 4
    activations = cost.activation_bytes(config.model, info.classes, info.channels, width=width, remat=trainer.remat)
    # Parameters, gradients and two moments of the optimizer, in float32.
    return ResourceEstimate(
        parameters,
        cost.macs(config.model, info.classes, info.channels),
        activations * trainer.batch_size + 16 * parameters,
    )
