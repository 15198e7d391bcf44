"""Predictions for image files: expanded, decoded a few ahead of where they are needed, and predicted in batches."""

import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tnt_exp.data.image_files import decode_image
from tnt_exp.data.sources.folder_layout import list_images
from tnt_exp.errors import UserError, printable_name, similar_path
from tnt_exp.hardware import cpu_count

if TYPE_CHECKING:
    import pandas as pd

    from tnt_exp.model.classifier import Classifier

_STDIN = "-"
_FEW = 8  # images that TensorFlow computes eagerly before the graph of a network is traced


def expand_inputs(arguments: Sequence[str], stdin: Iterable[str] = sys.stdin) -> Iterator[Path]:
    """Yield image files one by one; nothing is listed before it is needed.

    The arguments are files, folders (all images in them and below), globs (also `**`), or `-`: a list on standard
    input, one file per line. If one matches nothing, `UserError` is raised at once; a missing file of a list is found
    when it is read.
    """
    for argument in arguments:
        if argument != _STDIN and not Path(argument).exists() and next(_matches(argument), None) is None:
            raise UserError(
                f"{printable_name(argument)}: expected an image, a folder or a glob, found nothing there."
                f"{similar_path(Path(argument))}"
            )
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
    """Yield files in order, with uint8 (size, size, channels) or the error; at most `ahead` are decoded or waiting."""

    def image(file: Path) -> np.ndarray | UserError:
        try:
            return decode_image(file, size, channels)
        except UserError as error:
            return error

    waiting: deque[tuple[Path, Future[np.ndarray | UserError]]] = deque()
    pool = ThreadPoolExecutor(cpu_count())
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
    """The prediction for one file."""

    file: Path
    classes: tuple[tuple[str, float], ...] = ()  # (name, probability), best first; empty if there is an error
    error: str | None = None  # why the file could not be read


def predict_images(
    classifier: "Classifier",
    images: Iterable[tuple[Path, np.ndarray | UserError]],
    *,
    batch_size: int,
    top: int,
    once: bool = False,
) -> Iterator[Prediction]:
    """Yield the `top` classes of each image (S, S, C), in order; no more than one batch is in memory.

    A call of the classifier has one static shape of at most `batch_size` images. With `once` it is used for these
    images alone: TensorFlow does not trace a graph for a few.
    """
    import keras

    stream = iter(images)
    size: int | None = None
    compute: Callable[[np.ndarray], object] = classifier.predict_on_batch
    while batch := list(islice(stream, size or batch_size)):
        few = size is None and len(batch) <= _FEW and len(batch) < batch_size
        if once and few and keras.config.backend() == "tensorflow":
            compute = classifier
        size = size or len(batch)  # fewer images than a batch: a smaller one
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        rows = iter(_likeliest(compute, classifier.class_names, readable, size, top))
        for file, image in batch:
            if isinstance(image, UserError):
                yield Prediction(file, error=str(image))
            else:
                yield Prediction(file, next(rows))


def predict_table(
    load: Callable[[], "Classifier"],
    images: "np.ndarray | Sequence[str | os.PathLike[str]] | str | os.PathLike[str]",
    size: int,
    channels: int,
    top: int,
) -> "pd.DataFrame":
    """Return the table of `Run.predict`; `image` is a file or the position in the array, `rank` begins with 1.

    The model is loaded when the images have been checked: `UserError` is raised if an argument matches no file, the
    array has another shape, or `top` is less than 1.
    """
    import pandas as pd

    if top < 1:
        raise UserError(f"top: expected 1 or more, received {top}.")
    stream: Iterable[tuple[Path, np.ndarray | UserError]]
    if isinstance(images, np.ndarray):
        if images.ndim != 4 or images.shape[-1] != channels:
            raise UserError(f"images: expected an array (N, height, width, {channels}), received {images.shape}.")
        stream = ((Path(str(number)), image) for number, image in enumerate(images))
    else:
        names = [os.fspath(image) for image in ([images] if isinstance(images, str | os.PathLike) else images)]
        stream = decode_inputs(expand_inputs(names), size, channels)
    rows = [
        (str(found.file), rank, *pair, found.error)
        for found in predict_images(load(), stream, batch_size=64, top=top)
        for rank, pair in enumerate(found.classes or [(None, None)], start=1)
    ]
    return pd.DataFrame(rows, columns=["image", "rank", "class", "probability", "error"])


def _likeliest(
    compute: Callable[[np.ndarray], object], names: Sequence[str], images: list[np.ndarray], size: int, top: int
) -> list[tuple[tuple[str, float], ...]]:
    if not images:
        return []
    filled = np.stack(images + images[-1:] * (size - len(images)))
    logits = np.asarray(compute(filled), np.float64)[: len(images)]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [tuple((names[i], float(row[i])) for i in order) for row, order in zip(probabilities, best, strict=True)]
