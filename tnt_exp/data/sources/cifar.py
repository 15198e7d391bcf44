"""CIFAR-10 and CIFAR-100 as their author publishes them (A. Krizhevsky, 2009).

Two layouts hold the same images, 32x32 RGB, stored channel by channel:
the binary version, records of one or two label bytes and 3,072 pixel bytes;
the Python version, pickled dictionaries of an array (images, 3072) and a list of labels.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.data.dataset import RawDataset, Split, make_split
from tnt_exp.data.metadata import CLASS_NAMES, OFFICIAL_SIZES
from tnt_exp.data.sources.archives import archive_members
from tnt_exp.data.sources.safe_pickle import Pixels, safe_unpickle
from tnt_exp.errors import UserError, wrap_read_errors


@dataclass(frozen=True)
class CifarLayout:
    """The files of one version, binary or Python, of one of the two data sets."""

    train: tuple[str, ...]
    test: str
    names: str  # the file of class names; the official names where it is not there
    key: str | None = None  # of the labels in a pickle; None: the binary version
    names_key: str = ""  # of the class names in their pickle
    label_bytes: int = 0  # of a binary record; the last one is the class

    @property
    def images(self) -> tuple[str, ...]:
        """The files that must be there."""
        return (*self.train, self.test)


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))

CIFAR = {
    Source.cifar10: (
        CifarLayout(tuple(f"{name}.bin" for name in _FIVE), "test_batch.bin", "batches.meta.txt", label_bytes=1),
        CifarLayout(_FIVE, "test_batch", "batches.meta", key="labels", names_key="label_names"),
    ),
    Source.cifar100: (
        CifarLayout(("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
        CifarLayout(("train",), "test", "meta", key="fine_labels", names_key="fine_label_names"),
    ),
}


def require_cifar_files(source: Source, path: Path, found: Collection[str]) -> CifarLayout:
    """The version of which `found` has every file of images.

    Raises:
        UserError: There is none.
    """
    layouts = CIFAR[source]
    best = max(layouts, key=lambda layout: len(set(layout.images) & set(found)))
    missing = [name for name in best.images if name not in found]
    if missing:
        expected = " or ".join(", ".join(layout.images) for layout in layouts)
        raise UserError(
            f"dataset.path={path}: expected the files of {source.value} ({expected}), "
            f"received no {', '.join(missing)}; give the official archive or the folder it unpacks to"
        )
    return best


_log = logging.getLogger(__name__)

_PIXELS = 3 * 32 * 32

_COARSE_CLASSES = 20  # CIFAR-100's superclasses, not used but there


def read_cifar(source: Source, path: Path) -> RawDataset:
    """Read an official archive, or the folder that it unpacks to, in either version.

    Raises:
        UserError: A file is missing, damaged, mislabelled or of another form.
    """
    by_name = {name: layout for layout in CIFAR[source] for name in (*layout.images, layout.names)}
    classes = len(CLASS_NAMES[source])
    splits: dict[str, Split] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, content in archive_members(path, by_name):
        layout, file = by_name[name], f"{path}: {name}"
        if name == layout.names:
            names[name] = _class_names(layout, content, classes, file)
        else:
            splits[name] = _images(layout, content, classes, file)

    layout = require_cifar_files(source, path, splits)
    train, test = _joined([splits[name] for name in layout.train]), splits[layout.test]
    received = (len(train), len(test))
    if received != OFFICIAL_SIZES[source]:
        _log.warning(
            "%s: %d training and %d test images; the official %s has %d and %d",
            *(path, *received, source.value, *OFFICIAL_SIZES[source]),
        )
    return RawDataset(
        train=train,
        test=test,
        class_names=names.get(layout.names, CLASS_NAMES[source]),
    )


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


def _joined(splits: list[Split]) -> Split:
    if len(splits) == 1:
        return splits[0]
    return Split(np.concatenate([s.images for s in splits]), np.concatenate([s.labels for s in splits]))
