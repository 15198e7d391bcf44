"""CIFAR-10 and CIFAR-100 as their author publishes them (A. Krizhevsky, 2009).

Two layouts hold the same images, 32x32 RGB, stored channel by channel:
the binary version, records of one or two label bytes and 3,072 pixel bytes;
the Python version, pickled dictionaries of an array (images, 3072) and a list of labels.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.class_names import CLASS_NAMES
from tnt_exp.data.dataset import Parts, Split, labelled
from tnt_exp.data.known import OFFICIAL
from tnt_exp.data.members import members
from tnt_exp.data.reading import reading
from tnt_exp.data.unpickle import Pixels, unpickle

_log = logging.getLogger(__name__)
_PIXELS = 3 * 32 * 32
_COARSE_CLASSES = 20  # CIFAR-100's superclasses, not used but there


@dataclass(frozen=True)
class _Layout:
    """The files of one version of one data set."""

    train: tuple[str, ...]
    test: str
    names: str  # the file of class names; the official names where it is not there
    key: str | None = None  # of the labels in a pickle; None: the binary version
    names_key: str = ""  # of the class names in their pickle
    label_bytes: int = 0  # of a binary record; the last one is the class

    @property
    def images(self) -> tuple[str, ...]:
        return (*self.train, self.test)


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
_LAYOUTS = {
    Source.cifar10: (
        _Layout(tuple(f"{name}.bin" for name in _FIVE), "test_batch.bin", "batches.meta.txt", label_bytes=1),
        _Layout(_FIVE, "test_batch", "batches.meta", key="labels", names_key="label_names"),
    ),
    Source.cifar100: (
        _Layout(("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
        _Layout(("train",), "test", "meta", key="fine_labels", names_key="fine_label_names"),
    ),
}


def read_cifar(source: Source, path: Path) -> Parts:
    """Read an official archive, or the folder that it unpacks to, in either version.

    Raises:
        InputError: A file is missing, damaged, mislabelled or of another form.
    """
    layouts = _LAYOUTS[source]
    by_name = {name: layout for layout in layouts for name in (*layout.images, layout.names)}
    classes = len(CLASS_NAMES[source])
    splits: dict[str, Split] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, content in members(path, by_name):
        layout, file = by_name[name], f"{path}: {name}"
        if name == layout.names:
            names[name] = _class_names(layout, content, classes, file)
        else:
            splits[name] = _images(layout, content, classes, file)

    layout = max(layouts, key=lambda layout: len(splits.keys() & layout.images))
    missing = [name for name in layout.images if name not in splits]
    if missing:
        expected = " or ".join(", ".join(layout.images) for layout in layouts)
        raise InputError(
            f"dataset.path={path}: expected the files of {source.value} ({expected}), "
            f"received no {', '.join(missing)}; give the official archive or the folder it unpacks to"
        )
    parts = Parts(
        train=_joined([splits[name] for name in layout.train]),
        test=splits[layout.test],
        class_names=names.get(layout.names, CLASS_NAMES[source]),
    )
    _compare_with_official(parts, source, path)
    return parts


def _images(layout: _Layout, content: bytes, classes: int, file: str) -> Split:
    if layout.key is None:
        records = _records(layout, content, file)
        labels, pixels = records[:, layout.label_bytes - 1], records[:, layout.label_bytes :]
    else:
        with reading(file):
            labels, pixels = _arrays(unpickle(content), layout.key)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return labelled(np.ascontiguousarray(images), labels, classes, file)


def _records(layout: _Layout, content: bytes, file: str) -> np.ndarray:
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


def _class_names(layout: _Layout, content: bytes, classes: int, file: str) -> tuple[str, ...]:
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


def _compare_with_official(parts: Parts, source: Source, path: Path) -> None:
    received = (len(parts.train), len(parts.test or ()))
    if received != OFFICIAL[source]:
        _log.warning(
            "%s: %d training and %d test images; the official %s has %d and %d",
            *(path, *received, source.value, *OFFICIAL[source]),
        )
