"""Evaluate a classifier on a split: the same evaluator within training and alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tnt_exp.data.batches import padded_batches
from tnt_exp.data.dataset import Split

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier


@dataclass(frozen=True)
class Evaluation:
    """The performance of a classifier on a split.

    Attributes:
        loss: Mean cross-entropy, without label smoothing.
        accuracy, top5_accuracy: Fraction of the images whose class is the first, or among the first five.
        confusion: int64 (classes, classes): row = true class, column = predicted class.
        predicted: int64 (images,): the class with the highest score.
        confidence: float64 (images,): its probability.
        right: bool (images,): whether it is the true class.
    """

    loss: float
    accuracy: float
    top5_accuracy: float
    confusion: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    right: np.ndarray

    def metrics(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Yield (name, value) pairs; the names begin with `prefix`."""
        yield f"{prefix}/loss", self.loss
        yield f"{prefix}/accuracy", self.accuracy
        yield f"{prefix}/top5_accuracy", self.top5_accuracy

    @property
    def class_accuracy(self) -> np.ndarray:
        """float64 (classes,): accuracy within each class, NaN if the split has no image of it."""
        counts = self.confusion.sum(axis=1)
        accuracy = np.full(len(counts), np.nan)
        np.divide(np.diag(self.confusion), counts, out=accuracy, where=counts > 0)
        return accuracy

    def accuracy_by_name(self, class_names: Sequence[str]) -> dict[str, float | None]:
        """Return the accuracy within each class by its name, None if the split has no image of it."""
        pairs = zip(class_names, self.class_accuracy, strict=True)
        return {name: None if math.isnan(accuracy) else float(accuracy) for name, accuracy in pairs}

    def calibration_error(self, bins: int = 15) -> float:
        """Return the expected calibration error (arXiv 1706.04599).

        The mean of |accuracy - confidence| over bins of equal width, weighted by the number of images in a bin.
        """
        index = np.minimum((self.confidence * bins).astype(int), bins - 1)
        gap = np.bincount(index, self.right - self.confidence, minlength=bins)
        return float(np.abs(gap).sum() / len(self.confidence))

    def mistakes(self, count: int) -> np.ndarray:
        """Return the positions of the wrong predictions with the highest confidence, at most `count` of them."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")[:count]]


def evaluate(classifier: "Classifier", split: Split, batch_size: int, *, flip: bool) -> Evaluation:
    """Evaluate a classifier, uint8 images (B, H, W, C) -> logits (B, classes), on a split.

    Every call has the static shape of `batch_size` images. With `flip`, the logits are the mean of those of the image
    and of its mirror image.
    """
    correct, top5 = 0, 0
    confusion = None
    losses: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    confidence: list[np.ndarray] = []
    for images, labels, count in padded_batches(split, batch_size):
        # The host sums in float64, once over all images, so that the results do not depend on the batch size.
        logits = np.asarray(classifier.predict_on_batch(images), np.float64)[:count]
        if flip:
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            logits = (logits + np.asarray(classifier.predict_on_batch(mirrored), np.float64)[:count]) / 2
        labels = labels[:count]
        if confusion is None:
            confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        top = logits.max(axis=1, keepdims=True)
        total = np.exp(logits - top).sum(axis=1)
        losses.append(np.log(total) - (own - top)[:, 0])
        rank = (logits > own).sum(axis=1)
        correct += int((rank < 1).sum())
        top5 += int((rank < 5).sum())
        predicted.append(logits.argmax(axis=1))
        confidence.append(1 / total)
        np.add.at(confusion, (labels, predicted[-1]), 1)
    if confusion is None:
        raise ValueError("Expected at least one image to evaluate, received none.")
    answers = np.concatenate(predicted)
    return Evaluation(
        loss=math.fsum(np.concatenate(losses)) / len(split),
        accuracy=correct / len(split),
        top5_accuracy=top5 / len(split),
        confusion=confusion,
        predicted=answers,
        confidence=np.concatenate(confidence),
        right=answers == split.labels,
    )
