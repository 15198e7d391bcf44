"""Images and labels, in memory or in files."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tnt_exp.errors import UserError

if TYPE_CHECKING:
    from tnt_exp.data.image_files import FileImages


class FileRecord(NamedTuple):
    """An image file that was read."""

    path: str  # relative to `dataset.path`
    sha256: str  # of its content, 64 hexadecimal digits


@dataclass(frozen=True, eq=False)  # arrays cannot be compared by ==
class Split:
    """Images and their class numbers; `content` and `files` are None where images do not come in files."""

    images: "np.ndarray | FileImages"  # uint8 (images, height, width, channels); `FileImages` decodes on access
    labels: np.ndarray  # int32 (images,), from 0
    content: bytes | None = None  # SHA-256 over the files of the images, in order
    files: tuple[FileRecord, ...] | None = None  # in the order of the images

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> "Split":
        """Return the images at `positions` (ascending, each once), copied unless these are all images."""
        if len(positions) == len(self):
            return self
        return Split(self.images[positions], self.labels[positions])


class LazySplit(Protocol):
    """Images with known labels, which may not have been read yet."""

    @property
    def labels(self) -> np.ndarray:
        """The class number of each image, int32 (images,)."""

    def take(self, positions: np.ndarray) -> Split:
        """Read the images at `positions` (ascending, each once); unreadable ones may be left out."""


def make_split(images: np.ndarray, labels: np.ndarray, classes: int, source: object) -> Split:
    """Return what was read from `source`, or raise `UserError`: no images, or not a label below `classes` for each."""
    if len(images) == 0:
        raise UserError(f"{source}: expected at least one image, received none; give another file")
    if len(labels) != len(images):
        raise UserError(
            f"{source}: expected one label per image, received {len(images)} images and {len(labels)} labels; "
            "fetch or write the file again"
        )
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise UserError(
            f"{source}: expected labels from 0 to {classes - 1}, received {labels[outside[0]]} "
            f"at image {outside[0]} ({len(outside)} labels outside); is this the data set that dataset.name says?"
        )
    return Split(images, labels.astype(np.int32))


def class_numbers(labels: np.ndarray, source: object) -> np.ndarray:
    """Return labels as (images,), or raise `UserError`: they are not a whole number per image."""
    numbers = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        raise UserError(f"{source}: expected whole numbers (images,), received {labels.dtype} {labels.shape}")
    return numbers


@dataclass(frozen=True, eq=False)
class RawDataset:
    """What a source holds, before limits and splits. A part that it does not have is None."""

    train: LazySplit
    test: LazySplit | None
    class_names: tuple[str, ...]
    validation: LazySplit | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split. The test part is for the final evaluation only."""

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]
    digest: str  # 16 hexadecimal digits over everything above but the name
    skipped: int  # unreadable images left out
    listed: int = 0  # images that the source has, with those in no split

    @property
    def splits(self) -> dict[str, Split]:
        """The splits that there are."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def class_weights(self, setting: str | dict[str, float]) -> np.ndarray | None:
        """Return the weight of each class in the loss, float32 (classes,); None: all are 1.

        `setting` is "none"; "balanced": images / (classes * images of the class) in training, as scikit-learn's
        `compute_class_weight`, and 0 for a class without images; or weights by class name, 1 for the others. Raises
        `UserError` if a name is not that of a class.
        """
        if isinstance(setting, dict):
            unknown = [name for name in setting if name not in self.class_names]
            if unknown:
                raise UserError(
                    f"trainer.class_weights: expected names of classes ({', '.join(self.class_names[:10])}"
                    f"{', ...' if self.num_classes > 10 else ''}), received {', '.join(unknown)}; correct them."
                )
            return np.array([setting.get(name, 1.0) for name in self.class_names], np.float32)
        if setting == "none":
            return None
        counts = np.bincount(self.train.labels, minlength=self.num_classes)
        weights = len(self.train) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return np.where(counts > 0, weights, 0).astype(np.float32)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.image_shape[2]


def dataset_digest(splits: Iterable[Split | None], class_names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits of SHA-256 over pixels, labels and class names, in order.

    Images in files are identified by the content of their files and the size to which they are decoded, whether they
    are in memory or not: nothing is decoded for the digest.
    """
    sha = hashlib.sha256("\0".join(class_names).encode())
    for split in splits:
        if split is None:
            sha.update(b"none")
            continue
        sha.update(repr(split.images.shape).encode())
        sha.update(np.ascontiguousarray(split.images[:]).data if split.content is None else split.content)
        sha.update(split.labels.astype("<i4").tobytes())
    return sha.hexdigest()[:16]
