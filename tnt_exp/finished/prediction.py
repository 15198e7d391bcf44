"""A model's answers to a stream of images."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tnt_exp.config import InputError


@dataclass(frozen=True)
class Prediction:
    """What a model says of one file.

    Attributes:
        file: Its name.
        classes: (name, probability) of the likeliest classes, the likeliest first; empty where `error` is set.
        error: Why it could not be read.
    """

    file: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predictions(
    classifier: Any, images: Iterable[tuple[Path, np.ndarray | InputError]], *, batch_size: int, top: int
) -> Iterator[Prediction]:
    """Answers in the order of the images; no more than one batch is in memory.

    Args:
        classifier: uint8 images (B, S, S, C) -> logits (B, classes), with `class_names`.
        images: Files and their images (S, S, C), or what is wrong with them.
        batch_size: Images a call, at most; every call has one static shape.
        top: Classes an answer.
    """
    stream = iter(images)
    size: int | None = None
    while batch := list(islice(stream, size or batch_size)):
        size = size or len(batch)  # fewer images than a batch: a smaller one
        readable = [image for _, image in batch if isinstance(image, np.ndarray)]
        rows = iter(_likeliest(classifier, readable, size, top))
        for file, image in batch:
            if isinstance(image, InputError):
                yield Prediction(file, error=str(image))
            else:
                yield Prediction(file, next(rows))


def _likeliest(classifier: Any, images: list[np.ndarray], size: int, top: int) -> list[tuple[tuple[str, float], ...]]:
    if not images:
        return []
    filled = np.stack(images + images[-1:] * (size - len(images)))
    logits = np.asarray(classifier.predict_on_batch(filled), np.float64)[: len(images)]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    names = classifier.class_names
    return [
        tuple((names[index], float(row[index])) for index in order)
        for row, order in zip(probabilities, best, strict=True)
    ]
