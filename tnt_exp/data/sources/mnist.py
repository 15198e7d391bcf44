"""MNIST and Fashion-MNIST from disk: the four official idx files, or Keras' mnist.npz."""

import gzip
import struct
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.data.dataset import RawDataset, Split, make_split
from tnt_exp.data.metadata import CLASS_NAMES
from tnt_exp.data.sources.archives import find_files
from tnt_exp.data.sources.npz import image_label_pair, read_npz_arrays
from tnt_exp.errors import UserError, wrap_read_errors

# Each as it is or with .gz behind: training images and labels, test images and labels.
MNIST = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def require_mnist_files(path: Path) -> tuple[Path, ...]:
    """The four files of a folder, in the order of `MNIST`.

    Raises:
        UserError: One is missing.
    """
    found = find_files(path, [*MNIST, *(f"{name}.gz" for name in MNIST)])
    files = [found.get(name) or found.get(f"{name}.gz") for name in MNIST]
    missing = [name for name, file in zip(MNIST, files, strict=True) if file is None]
    if missing:
        raise UserError(
            f"dataset.path={path}: expected {', '.join(MNIST)} (each may end in .gz), "
            f"received no {', '.join(missing)}; give the folder of the official files, or an mnist.npz"
        )
    return tuple(file for file in files if file is not None)


_SIDE = 28


def read_mnist(source: Source, path: Path) -> RawDataset:
    """Read a folder of the four idx files, each gzipped or not, or one .npz.

    Raises:
        UserError: A file is missing, damaged, mislabelled or of another form.
    """
    names = CLASS_NAMES[source]
    if path.is_dir():
        train_images, train_labels, test_images, test_labels = require_mnist_files(path)
        train = (_idx(train_images, 3)[..., None], _idx(train_labels, 1))
        test = (_idx(test_images, 3)[..., None], _idx(test_labels, 1))
        sources = (train_images, test_images)
    else:
        arrays = read_npz_arrays(path)
        first, second = (
            image_label_pair(arrays, "x_train", "y_train", path),
            image_label_pair(arrays, "x_test", "y_test", path),
        )
        if first is None or second is None:
            raise UserError(
                f"{path}: expected arrays x_train, y_train, x_test, y_test, "
                f"received {', '.join(sorted(arrays)) or 'none'}; dataset=npz reads others"
            )
        train, test, sources = first, second, (path, path)
    return RawDataset(
        train=_split(train, len(names), sources[0]), test=_split(test, len(names), sources[1]), class_names=names
    )


def _split(arrays: tuple[np.ndarray, np.ndarray], classes: int, file: Path) -> Split:
    images, labels = arrays
    if images.shape[1:] != (_SIDE, _SIDE, 1):
        raise UserError(
            f"{file}: expected images of {_SIDE}x{_SIDE} grey pixels, received {images.shape[1:]}; "
            "dataset=npz or dataset=image_folder read other images"
        )
    return make_split(images, labels, classes, file)


def _idx(file: Path, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes: two zeros, type 8, number of dimensions, big-endian sizes, the bytes."""
    with wrap_read_errors(file):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    start = 4 + 4 * dimensions
    expected = bytes([0, 0, 8, dimensions])
    if content[:4] != expected or len(content) < start:
        raise UserError(
            f"{file}: expected an idx file beginning with {expected.hex(' ')}, "
            f"received {content[:4].hex(' ') or 'nothing'}; fetch the file again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if np.prod(shape, dtype=object) != len(values):
        raise UserError(
            f"{file}: expected the {' x '.join(map(str, shape))} bytes that its head names, received {len(values)}; "
            "truncated: fetch the file again"
        )
    return values.reshape(shape)
