"""MNIST and Fashion-MNIST from disk: the four official idx files, or Keras' mnist.npz."""

import gzip
import struct
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.class_names import CLASS_NAMES
from tnt_exp.data.dataset import Parts, Split, labelled
from tnt_exp.data.layouts import complete_mnist
from tnt_exp.data.npz import pair, read_arrays
from tnt_exp.data.reading import reading

_SIDE = 28


def read_mnist(source: Source, path: Path) -> Parts:
    """Read a folder of the four idx files, each gzipped or not, or one .npz.

    Raises:
        InputError: A file is missing, damaged, mislabelled or of another form.
    """
    names = CLASS_NAMES[source]
    if path.is_dir():
        train_images, train_labels, test_images, test_labels = complete_mnist(path)
        train = (_idx(train_images, 3)[..., None], _idx(train_labels, 1))
        test = (_idx(test_images, 3)[..., None], _idx(test_labels, 1))
        sources = (train_images, test_images)
    else:
        arrays = read_arrays(path)
        first, second = pair(arrays, "x_train", "y_train", path), pair(arrays, "x_test", "y_test", path)
        if first is None or second is None:
            raise InputError(
                f"{path}: expected arrays x_train, y_train, x_test, y_test, "
                f"received {', '.join(sorted(arrays)) or 'none'}; dataset=npz reads others"
            )
        train, test, sources = first, second, (path, path)
    return Parts(
        train=_split(train, len(names), sources[0]), test=_split(test, len(names), sources[1]), class_names=names
    )


def _split(arrays: tuple[np.ndarray, np.ndarray], classes: int, file: Path) -> Split:
    images, labels = arrays
    if images.shape[1:] != (_SIDE, _SIDE, 1):
        raise InputError(
            f"{file}: expected images of {_SIDE}x{_SIDE} grey pixels, received {images.shape[1:]}; "
            "dataset=npz or dataset=image_folder read other images"
        )
    return labelled(images, labels, classes, file)


def _idx(file: Path, dimensions: int) -> np.ndarray:
    """An idx file of unsigned bytes: two zeros, type 8, number of dimensions, big-endian sizes, the bytes."""
    with reading(file):
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    start = 4 + 4 * dimensions
    expected = bytes([0, 0, 8, dimensions])
    if content[:4] != expected or len(content) < start:
        raise InputError(
            f"{file}: expected an idx file beginning with {expected.hex(' ')}, "
            f"received {content[:4].hex(' ') or 'nothing'}; fetch the file again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if np.prod(shape, dtype=object) != len(values):
        raise InputError(
            f"{file}: expected the {' x '.join(map(str, shape))} bytes that its head names, received {len(values)}; "
            "truncated: fetch the file again"
        )
    return values.reshape(shape)
