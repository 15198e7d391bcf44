"""What can be found wrong with the dataset section in milliseconds."""

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.metadata import DatasetInfo, required_path
from tnt_exp.data.sources import get_source
from tnt_exp.errors import UserError

_KEYS_OF_SOME_SOURCES = ("image_size", "channels", "memory_limit")


def validate(config: DatasetConfig) -> None:
    """Check the section and the files that it names, without reading images.

    Raises:
        UserError: The data set cannot be read.
    """
    if config.channels not in (1, 3):
        raise UserError(f"dataset.channels: expected 1 (grey) or 3 (RGB), received {config.channels}")
    if config.path == "":
        required_path(config)  # raises, also for a source that takes no path
    source, default = get_source(config.name), DatasetConfig()
    for key in _KEYS_OF_SOME_SOURCES:
        value = getattr(config, key)
        if key not in source.own_keys and value != getattr(default, key):
            raise UserError(
                f"dataset.{key}={value}: expected only with dataset=image_folder, received with "
                f"dataset={config.name.value}, whose images are taken as they are; leave it out"
            )
    source.validate(config)
    source.info(config)


def dataset_info(config: DatasetConfig) -> DatasetInfo:
    """Return what is known about the data set before it is read.

    Raises:
        UserError: A split would be empty.
    """
    return get_source(config.name).info(config)
