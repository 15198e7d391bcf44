"""What is known of a data set before it is read."""

from dataclasses import dataclass

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data.sizes import test_size, train_sizes


@dataclass(frozen=True)
class Facts:
    """Numbers of a data set; None: not known before the data are read."""

    height: int | None = None  # pixels
    width: int | None = None  # pixels
    channels: int | None = None
    classes: int | None = None
    train: int | None = None  # training images, after the limit and the validation split


DIGITS = 1797  # images, training and test together

# (height, width, channels, classes)
_FORMS = {
    Source.digits: (8, 8, 1, 10),
    Source.cifar10: (32, 32, 3, 10),
    Source.cifar100: (32, 32, 3, 100),
    Source.mnist: (28, 28, 1, 10),
    Source.fashion_mnist: (28, 28, 1, 10),
}
# (training, test) images of the official data sets that come divided.
OFFICIAL = {
    Source.cifar10: (50_000, 10_000),
    Source.cifar100: (50_000, 10_000),
    Source.mnist: (60_000, 10_000),
    Source.fashion_mnist: (60_000, 10_000),
}


def facts(config: DatasetConfig) -> Facts:
    """What `load(config)` will give, as far as it is known without reading.

    Files on disk may hold fewer images than the official ones: with `path`, `train` is unknown.

    Raises:
        InputError: A part would be empty.
    """
    if config.name is Source.image_folder:
        return Facts(height=config.image_size, width=config.image_size, channels=config.channels)
    if config.name is Source.npz:
        return Facts()
    height, width, channels, classes = _FORMS[config.name]
    train = None
    if config.name is Source.digits:
        train, _ = train_sizes(DIGITS - test_size(DIGITS, config), config)
    elif config.path is None:
        train, _ = train_sizes(OFFICIAL[config.name][0], config)
    return Facts(height, width, channels, classes, train)
