"""What is known of a data set before it is read."""

# MERGED DOCS:
# """How many images each part gets. Plain integers, so that it can be known before anything is read."""
# """The official class names, in the order of the class numbers."""

from dataclasses import dataclass
from math import floor
from pathlib import Path

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """Numbers of a data set; None: not known before the data are read."""

    height: int | None = None  # pixels
    width: int | None = None  # pixels
    channels: int | None = None
    classes: int | None = None
    train: int | None = None  # training images, after the limit and the validation split


DIGITS_SIZE = 1797  # images, training and test together

# (height, width, channels, classes)
_SHAPES = {
    Source.digits: (8, 8, 1, 10),
    Source.cifar10: (32, 32, 3, 10),
    Source.cifar100: (32, 32, 3, 100),
    Source.mnist: (28, 28, 1, 10),
    Source.fashion_mnist: (28, 28, 1, 10),
}

# (training, test) images of the official data sets that come divided.
OFFICIAL_SIZES = {
    Source.cifar10: (50_000, 10_000),
    Source.cifar100: (50_000, 10_000),
    Source.mnist: (60_000, 10_000),
    Source.fashion_mnist: (60_000, 10_000),
}


def dataset_info(config: DatasetConfig) -> DatasetInfo:
    """What `load(config)` will give, as far as it is known without reading.

    Files on disk may hold fewer images than the official ones: with `path`, `train` is unknown.

    Raises:
        UserError: A part would be empty.
    """
    if config.name is Source.image_folder:
        return DatasetInfo(height=config.image_size, width=config.image_size, channels=config.channels)
    if config.name is Source.npz:
        return DatasetInfo()
    height, width, channels, classes = _SHAPES[config.name]
    train = None
    if config.name is Source.digits:
        train, _ = train_split_sizes(DIGITS_SIZE - test_split_size(DIGITS_SIZE, config), config)
    elif config.path is None:
        train, _ = train_split_sizes(OFFICIAL_SIZES[config.name][0], config)
    return DatasetInfo(height, width, channels, classes, train)


def test_split_size(images: int, config: DatasetConfig) -> int:
    """Images kept for the test out of `images` that come undivided."""
    return _held_out(images, config.test_fraction, "test_fraction")


def train_split_sizes(images: int, config: DatasetConfig) -> tuple[int, int]:
    """(training, validation) images out of `images` that are not for the test.

    `train_limit` is applied first: a limit of 10,000 with a validation fraction of 0.2 gives 8,000 and 2,000.
    """
    if config.train_limit is not None and config.train_limit < 1:
        raise UserError(f"dataset.train_limit: expected at least one image, received {config.train_limit}")
    available = images if config.train_limit is None else min(images, config.train_limit)
    if config.validation_fraction == 0:
        return available, 0
    validation = _held_out(available, config.validation_fraction, "validation_fraction")
    return available - validation, validation


def _held_out(images: int, fraction: float, key: str) -> int:
    if not 0 < fraction < 1:
        raise UserError(f"dataset.{key}: expected a fraction between 0 and 1, received {fraction:g}")
    held_out = floor(images * fraction + 0.5)
    if not 0 < held_out < images:
        raise UserError(
            f"dataset.{key}={fraction:g}: expected at least one image on either side of the split, "
            f"received {held_out} of {images} images held out; change the fraction or give more images"
        )
    return held_out


_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle
bowl boy bridge bus butterfly camel can castle caterpillar cattle
chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain
mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CLASS_NAMES: dict[Source, tuple[str, ...]] = {
    Source.cifar10: ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    Source.cifar100: tuple(_CIFAR100.split()),
    Source.mnist: tuple("0123456789"),
    Source.fashion_mnist: (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}


def dataset_path(config: DatasetConfig) -> Path | None:
    """`dataset.path` with `~` expanded; None where the data come without.

    Raises:
        UserError: There is one too many or too few.
    """
    name = config.name.value
    if not config.path:
        if config.path is not None or config.name in (Source.image_folder, Source.npz):
            raise UserError(f"dataset.path: expected a file or folder for dataset={name}, received none; give it")
        return None
    if config.name is Source.digits:
        raise UserError(
            f"dataset.path={config.path}: expected none with dataset=digits, whose images come with the program; "
            "leave it out or choose another dataset"
        )
    return Path(config.path).expanduser()


def required_image_size(config: DatasetConfig) -> int:
    """`dataset.image_size` of an image folder, pixels.

    Raises:
        UserError: It is not given.
    """
    if config.image_size is None:
        raise UserError(
            "dataset.image_size: expected a side in pixels for dataset=image_folder, received none; give it"
        )
    return config.image_size
