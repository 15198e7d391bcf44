"""MNIST and Fashion-MNIST from disk: the four official idx files, or Keras' mnist.npz."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset, Split, make_split
from tnt_exp.data.sources.archives import LARGEST, find_files
from tnt_exp.data.sources.npz import image_label_pair, read_npz_arrays, require_npz_file
from tnt_exp.data.sources.source import DatasetInfo, DatasetSource, download, official_info, optional_path
from tnt_exp.errors import UserError, wrap_read_errors

_SIDE = 28
_OFFICIAL_TRAIN = 60_000

# Each as it is or with the suffix .gz: training images and labels, test images and labels.
_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_FASHION_NAMES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_CLASS_NAMES = {"mnist": tuple("0123456789"), "fashion_mnist": tuple(_FASHION_NAMES.split(", "))}


class MnistSource(DatasetSource):
    """MNIST or Fashion-MNIST: a folder of the four idx files, a mnist.npz, or a download by Keras."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._class_names = _CLASS_NAMES[name]

    def info(self, config: DatasetConfig) -> DatasetInfo:
        """See `DatasetSource`."""
        return official_info(config, (_SIDE, _SIDE, 1), len(self._class_names), _OFFICIAL_TRAIN)

    def validate(self, config: DatasetConfig) -> None:
        """See `DatasetSource`."""
        path = optional_path(config)
        if path is not None and path.is_dir():
            _find_idx_files(path)
        elif path is not None:
            require_npz_file(path)

    def read(self, config: DatasetConfig) -> RawDataset:
        """See `DatasetSource`."""
        path, classes = optional_path(config), len(self._class_names)
        if path is None:
            return download(self._name, self._class_names)
        if path.is_dir():
            train_images, train_labels, test_images, test_labels = _find_idx_files(path)
            train = (_read_idx(train_images, 3)[..., None], _read_idx(train_labels, 1))
            test = (_read_idx(test_images, 3)[..., None], _read_idx(test_labels, 1))
            files = (train_images, test_images)
        else:
            train, test = _read_npz(path)
            files = (path, path)
        splits = [_split(pair, classes, file) for pair, file in zip((train, test), files, strict=True)]
        return RawDataset(train=splits[0], test=splits[1], class_names=self._class_names)


SOURCES = {name: MnistSource(name) for name in _CLASS_NAMES}

_Pair = tuple[np.ndarray, np.ndarray]


def _find_idx_files(path: Path) -> tuple[Path, ...]:
    """Return the four files of a folder, in the order of `_IDX_FILES`, or raise `UserError` if one is missing."""
    found = find_files(path, [*_IDX_FILES, *(f"{name}.gz" for name in _IDX_FILES)])
    files = [found.get(name) or found.get(f"{name}.gz") for name in _IDX_FILES]
    missing = [name for name, file in zip(_IDX_FILES, files, strict=True) if file is None]
    if missing:
        raise UserError(
            f"dataset.path={path}: expected {', '.join(_IDX_FILES)} (each may end in .gz), "
            f"received no {', '.join(missing)}; give the folder of the official files, or an mnist.npz"
        )
    return tuple(file for file in files if file is not None)


def _read_npz(path: Path) -> tuple[_Pair, _Pair]:
    """Return (training, test) images and labels of Keras' mnist.npz."""
    arrays = read_npz_arrays(path)
    train = image_label_pair(arrays, "x_train", "y_train", path)
    test = image_label_pair(arrays, "x_test", "y_test", path)
    if train is None or test is None:
        raise UserError(
            f"{path}: expected arrays x_train, y_train, x_test, y_test, "
            f"received {', '.join(sorted(arrays)) or 'none'}; dataset=npz reads others"
        )
    return train, test


def _split(arrays: _Pair, classes: int, file: Path) -> Split:
    images, labels = arrays
    if images.shape[1:] != (_SIDE, _SIDE, 1):
        raise UserError(
            f"{file}: expected images of {_SIDE}x{_SIDE} grey pixels, received {images.shape[1:]}; "
            "dataset=npz or dataset=image_folder read other images"
        )
    return make_split(images, labels, classes, file)


def _read_idx(file: Path, dimensions: int) -> np.ndarray:
    """Read an idx file of unsigned bytes: two zeros, type 8, number of dimensions, big-endian sizes, the bytes."""
    start = 4 + 4 * dimensions
    expected = bytes([0, 0, 8, dimensions])
    with wrap_read_errors(file), (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
        head = stream.read(start)
        shape = struct.unpack(f">{dimensions}I", head[4:]) if len(head) == start else ()
        size = min(math.prod(shape), LARGEST)
        content = stream.read(size + 1)  # no more than that: a few kilobytes can inflate to gigabytes
    if head[:4] != expected or len(head) < start:
        raise UserError(
            f"{file}: expected an idx file beginning with {expected.hex(' ')}, "
            f"received {head[:4].hex(' ') or 'nothing'}; fetch the file again"
        )
    if math.prod(shape) != len(content):
        raise UserError(
            f"{file}: expected the {' x '.join(map(str, shape))} bytes that its head names, "
            f"received {'more' if len(content) > size else len(content)}; fetch the file again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
