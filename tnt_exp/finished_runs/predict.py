"""Predictions for image files: expanded, decoded a few ahead of where they are needed, and predicted in batches."""

import glob
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tnt_exp.data.image_files import decode_image
from tnt_exp.data.sources.folder_layout import list_images
from tnt_exp.errors import UserError, printable_name

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier

_STDIN = "-"


def expand_inputs(arguments: Sequence[str], stdin: Iterable[str] = sys.stdin) -> Iterator[Path]:
    """Yield image files one by one; nothing is listed before it is needed.

    Args:
        arguments: Files, folders (all images in them and below), globs (also `**`), or `-`: a list on standard input,
            one file per line.
        stdin: Standard input.

    Raises:
        UserError: At once, if an argument matches nothing. A missing file of a list is found when it is read.
    """
    for argument in arguments:
        if argument != _STDIN and not Path(argument).exists() and next(_matches(argument), None) is None:
            raise UserError(f"{printable_name(argument)}: expected an image, a folder or a glob, found nothing there.")
    return _expand_one(arguments, stdin)


def _expand_one(arguments: Sequence[str], stdin: Iterable[str]) -> Iterator[Path]:
    for argument in arguments:
        if argument == _STDIN:
            yield from (Path(line) for text in stdin if (line := text.rstrip("\r\n")))
        elif Path(argument).is_dir():
            yield from list_images(Path(argument)).files
        elif Path(argument).exists():
            yield Path(argument)
        else:
            for found in sorted(_matches(argument)):
                yield from list_images(Path(found)).files if Path(found).is_dir() else [Path(found)]


def _matches(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)


def decode_inputs(
    files: Iterator[Path], size: int, channels: int, ahead: int = 64
) -> Iterator[tuple[Path, np.ndarray | UserError]]:
    """Yield each file with its image, uint8 (size, size, channels), or with the error; in order.

    Args:
        files: Their names.
        size: Side of an image, pixels; see `tnt_exp.data.image_files.decode_image`.
        channels: 1 (grey) or 3 (RGB).
        ahead: The largest number of files that are being decoded or wait for the reader.
    """

    def image(file: Path) -> np.ndarray | UserError:
        try:
            return decode_image(file, size, channels)
        except UserError as error:
            return error

    waiting: deque[tuple[Path, Future[np.ndarray | UserError]]] = deque()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for file in files:
            waiting.append((file, pool.submit(image, file)))
            if len(waiting) == ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file.

    Attributes:
        file: Its name.
        classes: (name, probability) of the most probable classes, best first; empty if `error` is set.
        error: Why the file could not be read.
    """

    file: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict_images(
    classifier: "Classifier", images: Iterable[tuple[Path, np.ndarray | UserError]], *, batch_size: int, top: int
) -> Iterator[Prediction]:
    """Yield predictions in the order of the images; no more than one batch is in memory.

    Args:
        classifier: uint8 images (B, S, S, C) -> logits (B, classes), with `class_names`.
        images: Files with their images (S, S, C), or with the error.
        batch_size: Largest number of images per call; every call has one static shape.
        top: Classes per prediction.
    """
    stream = iter(images)
    size: int | None = None
    while batch := list(islice(stream, size or batch_size)):
        size = size or len(batch)  # fewer images than a batch: a smaller one
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        rows = iter(_likeliest(classifier, readable, size, top))
        for file, image in batch:
            if isinstance(image, UserError):
                yield Prediction(file, error=str(image))
            else:
                yield Prediction(file, next(rows))


def _likeliest(
    classifier: "Classifier", images: list[np.ndarray], size: int, top: int
) -> list[tuple[tuple[str, float], ...]]:
    if not images:
        return []
    filled = np.stack(images + images[-1:] * (size - len(images)))
    logits = np.asarray(classifier.predict_on_batch(filled), np.float64)[: len(images)]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    names = classifier.class_names
    return [tuple((names[i], float(row[i])) for i in order) for row, order in zip(probabilities, best, strict=True)]
