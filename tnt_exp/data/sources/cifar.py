"""CIFAR-10 and CIFAR-100 as their author publishes them (A. Krizhevsky, 2009).

Two layouts hold the same images, 32x32 RGB, stored channel by channel:
the binary version, records of one or two label bytes and 3,072 pixel bytes;
the Python version, pickled dictionaries of an array (images, 3072) and a list of labels.
"""

import logging
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset, Split, make_split
from tnt_exp.data.sources.archives import archive_members, find_files
from tnt_exp.data.sources.safe_pickle import Pixels, Unpickled, safe_unpickle
from tnt_exp.data.sources.source import DatasetInfo, DatasetSource, download, official_info, optional_path
from tnt_exp.errors import UserError, wrap_read_errors

_log = logging.getLogger(__name__)

_PIXELS = 3 * 32 * 32
_COARSE_CLASSES = 20  # CIFAR-100's superclasses; their labels are in the files, but not used
_OFFICIAL_SIZES = (50_000, 10_000)  # training and test images

_CIFAR100_NAMES = """
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

_CLASS_NAMES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": tuple(_CIFAR100_NAMES.split()),
}


@dataclass(frozen=True)
class CifarLayout:
    """The files of one version, binary or Python, of one of the two data sets."""

    train: tuple[str, ...]
    test: str
    names: str  # the file of class names; without it, the official names
    key: str | None = None  # of the labels in a pickle; None: the binary version
    names_key: str = ""  # of the class names in their pickle
    label_bytes: int = 0  # of a binary record; the last one is the class

    @property
    def images(self) -> tuple[str, ...]:
        """The files that must exist."""
        return (*self.train, self.test)


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))

_LAYOUTS = {
    "cifar10": (
        CifarLayout(tuple(f"{name}.bin" for name in _BATCHES), "test_batch.bin", "batches.meta.txt", label_bytes=1),
        CifarLayout(_BATCHES, "test_batch", "batches.meta", key="labels", names_key="label_names"),
    ),
    "cifar100": (
        CifarLayout(("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
        CifarLayout(("train",), "test", "meta", key="fine_labels", names_key="fine_label_names"),
    ),
}


class CifarSource(DatasetSource):
    """CIFAR-10 or CIFAR-100: an official archive, the folder that it unpacks to, or a download by Keras."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._class_names = _CLASS_NAMES[name]
        self._layouts = _LAYOUTS[name]

    def info(self, config: DatasetConfig) -> DatasetInfo:
        """See `DatasetSource`."""
        return official_info(config, (32, 32, 3), len(self._class_names), _OFFICIAL_SIZES[0])

    def validate(self, config: DatasetConfig) -> None:
        """See `DatasetSource`."""
        path = optional_path(config)
        if path is None:
            return
        if path.is_dir():
            self._find_layout(path, find_files(path, [name for layout in self._layouts for name in layout.images]))
            return
        with wrap_read_errors(path):
            is_archive = tarfile.is_tarfile(path)
        if not is_archive:
            raise UserError(f"dataset.path={path}: expected a folder or a tar archive, received another file")

    def read(self, config: DatasetConfig) -> RawDataset:
        """Read either version, binary or Python."""
        path = optional_path(config)
        if path is None:
            return download(self._name, self._class_names)
        by_name = {name: layout for layout in self._layouts for name in (*layout.images, layout.names)}
        classes = len(self._class_names)
        splits: dict[str, Split] = {}
        names: dict[str, tuple[str, ...]] = {}
        for name, content in archive_members(path, by_name):
            layout, file = by_name[name], f"{path}: {name}"
            if name == layout.names:
                names[name] = _class_names(layout, content, classes, file)
            else:
                splits[name] = _images(layout, content, classes, file)

        layout = self._find_layout(path, splits)
        train, test = _join([splits[name] for name in layout.train]), splits[layout.test]
        if (len(train), len(test)) != _OFFICIAL_SIZES:
            _log.warning(
                "%s: %d training and %d test images; the official %s has %d and %d",
                *(path, len(train), len(test), self._name, *_OFFICIAL_SIZES),
            )
        return RawDataset(train=train, test=test, class_names=names.get(layout.names, self._class_names))

    def _find_layout(self, path: Path, found: Collection[str]) -> CifarLayout:
        """Return the version of which `found` has every file of images, or raise `UserError`."""
        best = max(self._layouts, key=lambda layout: len(set(layout.images) & set(found)))
        missing = [name for name in best.images if name not in found]
        if missing:
            expected = " or ".join(", ".join(layout.images) for layout in self._layouts)
            raise UserError(
                f"dataset.path={path}: expected the files of {self._name} ({expected}), "
                f"received no {', '.join(missing)}; give the official archive or the folder it unpacks to"
            )
        return best


SOURCES = {name: CifarSource(name) for name in _CLASS_NAMES}


def _images(layout: CifarLayout, content: bytes, classes: int, file: str) -> Split:
    if layout.key is None:
        records = _records(layout, content, file)
        labels, pixels = records[:, layout.label_bytes - 1], records[:, layout.label_bytes :]
    else:
        with wrap_read_errors(file):
            labels, pixels = _arrays(safe_unpickle(content), layout.key)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return make_split(np.ascontiguousarray(images), labels, classes, file)


def _records(layout: CifarLayout, content: bytes, file: str) -> np.ndarray:
    size = layout.label_bytes + _PIXELS
    if len(content) % size:
        raise UserError(
            f"{file}: expected records of {size} bytes, received {len(content)} bytes, "
            f"{len(content) % size} too many; truncated or of another format: fetch the file again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    if layout.label_bytes == 2 and (records[:, 0] >= _COARSE_CLASSES).any():
        raise UserError(
            f"{file}: expected superclasses from 0 to {_COARSE_CLASSES - 1}, received {records[:, 0].max()}; "
            "damaged or of another format: fetch the file again"
        )
    return records


def _arrays(batch: dict[str, Unpickled], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, pixels) of an unpickled batch; raises any kind of error if it has another form."""
    missing = [name for name in ("data", key) if name not in batch]
    if missing:
        raise ValueError(f"no {' and no '.join(missing)} in it")
    if not isinstance(batch["data"], Pixels):
        raise ValueError("data is no array")
    pixels = batch["data"].array()
    if pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(f"data of shape {pixels.shape}, not (images, {_PIXELS})")
    numbers = batch[key]
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError(f"{key} is no list of whole numbers")
    return np.array(numbers, np.int64), pixels


def _class_names(layout: CifarLayout, content: bytes, classes: int, file: str) -> tuple[str, ...]:
    with wrap_read_errors(file):
        if layout.key is None:
            names = [line.strip() for line in content.decode().splitlines() if line.strip()]
        else:
            names = [
                name.decode() if isinstance(name, bytes) else name for name in safe_unpickle(content)[layout.names_key]
            ]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("class names that are no text")
    if len(names) != classes:
        raise UserError(f"{file}: expected {classes} class names, received {len(names)}; fetch the file again")
    return tuple(names)


def _join(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    return Split(np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits]))
