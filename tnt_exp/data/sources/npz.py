"""The user's own arrays, in NumPy's .npz format."""

import zipfile
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import RawDataset, class_numbers, make_split
from tnt_exp.data.sources.source import DatasetInfo, DatasetSource, required_path
from tnt_exp.errors import UserError, wrap_read_errors


class NpzSource(DatasetSource):
    """A .npz file with `x_train`, `y_train`, or `images`, `labels`; optional: `x_val`, `x_test`, `class_names`.

    Images are uint8 (images, height, width) or (images, height, width, 1 or 3), labels integers from 0.
    """

    def info(self, config: DatasetConfig) -> DatasetInfo:
        """Nothing is known before the file is read."""
        return DatasetInfo()

    def validate(self, config: DatasetConfig) -> None:
        """See `DatasetSource`."""
        require_npz_file(required_path(config))

    def read(self, config: DatasetConfig) -> RawDataset:
        """See `DatasetSource`."""
        path = required_path(config)
        arrays = read_npz_arrays(path)
        train = image_label_pair(arrays, "x_train", "y_train", path)
        train = train or image_label_pair(arrays, "images", "labels", path)
        if train is None:
            raise UserError(
                f"{path}: expected arrays x_train and y_train, or images and labels, "
                f"received {', '.join(sorted(arrays)) or 'none'}; name them so"
            )
        test = image_label_pair(arrays, "x_test", "y_test", path)
        validation = image_label_pair(arrays, "x_val", "y_val", path)
        for key, pair in (("x_test", test), ("x_val", validation)):
            if pair is not None and pair[0].shape[1:] != train[0].shape[1:]:
                raise UserError(
                    f"{path}: {key}: expected images of shape {train[0].shape[1:]} as in training, "
                    f"received {pair[0].shape[1:]}; resize them first"
                )
        names = _class_names(arrays, train[1], path)
        return RawDataset(
            train=make_split(*train, len(names), path),
            validation=None if validation is None else make_split(*validation, len(names), f"{path}: validation"),
            test=None if test is None else make_split(*test, len(names), f"{path}: test"),
            class_names=names,
        )


SOURCES = {"npz": NpzSource()}


def require_npz_file(path: Path) -> None:
    """Raise UserError if a path is not a .npz file."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        received = "a folder" if path.is_dir() else "another file"
        raise UserError(f"dataset.path={path}: expected an .npz file, received {received}")


def read_npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return every array in the file, or raise `UserError`: it is damaged, of another format, or has objects."""
    # Opened here: given a path, np.load leaves a damaged file open.
    with wrap_read_errors(path), path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("no .npz archive")
        with arrays:
            return {name: arrays[name] for name in arrays.files}


def image_label_pair(arrays: dict[str, np.ndarray], x: str, y: str, path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (images, labels) under two keys, as (images, H, W, C) and (images,); None where neither is there.

    Raises `UserError` if only one is there, or one is of another form.
    """
    if x not in arrays and y not in arrays:
        return None
    for key, other in ((x, y), (y, x)):
        if key not in arrays:
            raise UserError(f"{path}: expected {key} beside {other}, received {', '.join(sorted(arrays))}; add it")
    images = arrays[x]
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise UserError(
            f"{path}: {x}: expected uint8 (images, height, width[, 1 or 3]), "
            f"received {arrays[x].dtype} {arrays[x].shape}; convert it (0..255)"
        )
    return np.ascontiguousarray(images), class_numbers(arrays[y], f"{path}: {y}")


def _class_names(arrays: dict[str, np.ndarray], labels: np.ndarray, path: Path) -> tuple[str, ...]:
    if "class_names" not in arrays:
        classes = np.unique(labels)
        if len(classes) < 2 or (classes != np.arange(len(classes))).any():
            raise UserError(
                f"{path}: expected training labels 0, 1, ... with none left out, received {_few(classes)}; "
                "number them so or give class_names"
            )
        return tuple(str(number) for number in range(len(classes)))
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind not in "US" or len(names) < 2:
        raise UserError(
            f"{path}: class_names: expected two or more texts, received {names.dtype} {names.shape}; "
            "save np.array([...], dtype=str)"
        )
    with wrap_read_errors(f"{path}: class_names"):
        texts = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    doubled = sorted({name for name in texts if texts.count(name) > 1})
    if doubled:
        raise UserError(f"{path}: class_names: expected each name once, received {', '.join(doubled)} twice; rename")
    return texts


def _few(numbers: np.ndarray) -> str:
    shown = ", ".join(str(number) for number in numbers[:6])
    return f"{shown}, ..." if len(numbers) > 6 else shown or "none"
