"""Whether a configuration can run."""

from pathlib import Path

from tnt_exp import data
from tnt_exp.config import Config, InputError, rules
from tnt_exp.training import device


def check(config: Config) -> None:
    """Everything that can be found without reading data or importing a backend.

    Raises:
        InputError: The configuration cannot run.
    """
    facts = data.facts(config.dataset)
    rules.check(config, channels=facts.channels, train_images=facts.train)
    data.check(config.dataset)
    device.check(config.trainer)
    if config.model.weights is not None and not Path(config.model.weights).is_file():
        raise InputError(f"model.weights: expected a .safetensors or .pth file, found none at {config.model.weights}.")
