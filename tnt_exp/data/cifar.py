"""CIFAR-10 and CIFAR-100 as their author publishes them (A. Krizhevsky, 2009).

Two layouts hold the same images, 32x32 RGB, stored channel by channel:
the binary version, records of one or two label bytes and 3,072 pixel bytes;
the Python version, pickled dictionaries of an array (images, 3072) and a list of labels.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.class_names import CLASS_NAMES
from tnt_exp.data.dataset import Parts, Split, labelled
from tnt_exp.data.known import OFFICIAL
from tnt_exp.data.layouts import CIFAR, CifarLayout, complete_cifar
from tnt_exp.data.members import members
from tnt_exp.data.reading import reading
from tnt_exp.data.unpickle import Pixels, unpickle

_log = logging.getLogger(__name__)
_PIXELS = 3 * 32 * 32
_COARSE_CLASSES = 20  # CIFAR-100's superclasses, not used but there


def read_cifar(source: Source, path: Path) -> Parts:
    """Read an official archive, or the folder that it unpacks to, in either version.

    Raises:
        InputError: A file is missing, damaged, mislabelled or of another form.
    """
    by_name = {name: layout for layout in CIFAR[source] for name in (*layout.images, layout.names)}
    classes = len(CLASS_NAMES[source])
    splits: dict[str, Split] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, content in members(path, by_name):
        layout, file = by_name[name], f"{path}: {name}"
        if name == layout.names:
            names[name] = _class_names(layout, content, classes, file)
        else:
            splits[name] = _images(layout, content, classes, file)

    layout = complete_cifar(source, path, splits)
    train, test = _joined([splits[name] for name in layout.train]), splits[layout.test]
    received = (len(train), len(test))
    if received != OFFICIAL[source]:
        _log.warning(
            "%s: %d training and %d test images; the official %s has %d and %d",
            *(path, *received, source.value, *OFFICIAL[source]),
        )
    return Parts(
        train=train,
        test=test,
        class_names=names.get(layout.names, CLASS_NAMES[source]),
    )


def _images(layout: CifarLayout, content: bytes, classes: int, file: str) -> Split:
    if layout.key is None:
        records = _records(layout, content, file)
        labels, pixels = records[:, layout.label_bytes - 1], records[:, layout.label_bytes :]
    else:
        with reading(file):
            labels, pixels = _arrays(unpickle(content), layout.key)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return labelled(np.ascontiguousarray(images), labels, classes, file)


def _records(layout: CifarLayout, content: bytes, file: str) -> np.ndarray:
    size = layout.label_bytes + _PIXELS
    if len(content) % size:
        raise InputError(
            f"{file}: expected records of {size} bytes, received {len(content)} bytes, "
            f"{len(content) % size} too many; truncated or of another format: fetch the file again"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    if layout.label_bytes == 2 and (records[:, 0] >= _COARSE_CLASSES).any():
        raise InputError(
            f"{file}: expected superclasses from 0 to {_COARSE_CLASSES - 1}, received {records[:, 0].max()}; "
            "damaged or of another format: fetch the file again"
        )
    return records


def _arrays(batch: dict[str, Any], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(labels, pixels) of an unpickled batch. Raises what is wrong with it, of any kind."""
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
    with reading(file):
        if layout.key is None:
            names = [line.strip() for line in content.decode().splitlines() if line.strip()]
        else:
            names = [name.decode() if isinstance(name, bytes) else name for name in unpickle(content)[layout.names_key]]
        if not all(isinstance(name, str) for name in names):
            raise ValueError("class names that are no text")
    if len(names) != classes:
        raise InputError(f"{file}: expected {classes} class names, received {len(names)}; fetch the file again")
    return tuple(names)


def _joined(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    return Split(np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits]))
