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

    An image whose scores are not all finite is wrong, with a confidence of 0, and in no column of `confusion`.
    """

    loss: float  # mean cross-entropy, without label smoothing
    accuracy: float  # fraction of the images whose class is the first
    top5_accuracy: float  # fraction of the images whose class is among the first five
    class_accuracy: np.ndarray  # float64 (classes,): recall of each class, NaN if the split has no image of it
    confusion: np.ndarray  # int64 (classes, classes): row = true class, column = predicted class
    predicted: np.ndarray  # int64 (images,): the class with the highest score, of equal ones the first
    confidence: np.ndarray  # float64 (images,): its probability
    right: np.ndarray  # bool (images,): whether it is the true class
    class_counts: np.ndarray  # int64 (classes,): images of each class

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images, as in scikit-learn: macro recall."""
        return float(np.nanmean(self.class_accuracy))

    @property
    def class_f1(self) -> np.ndarray:
        """F1 of each class, float64 (classes,): NaN if it has no image and is never predicted, 0 if none is right."""
        hits, answers = np.diag(self.confusion), self.confusion.sum(axis=0)
        total, f1 = self.class_counts + answers, np.full(len(hits), np.nan)
        np.divide(2 * hits, total, out=f1, where=total > 0)
        return f1

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes that have images or are predicted, as in scikit-learn."""
        return float(np.nanmean(self.class_f1))

    def metrics(self, prefix: str) -> Iterator[tuple[str, float]]:
        """Yield (name, value) pairs; the names begin with `prefix`."""
        for name in ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1"):
            yield f"{prefix}/{name}", getattr(self, name)

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
    confusion = None
    losses: list[np.ndarray] = []
    ranks: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    confidence: list[np.ndarray] = []
    for images, labels, count in padded_batches(split, batch_size):
        # The host sums in float64, once over all images, so that the results do not depend on the batch size.
        logits = np.asarray(classifier.predict_on_batch(images), np.float64)[:count]
        if flip:
            mirrored = np.ascontiguousarray(images[:, :, ::-1])
            logits = (logits + np.asarray(classifier.predict_on_batch(mirrored), np.float64)[:count]) / 2
        labels, classes = labels[:count], logits.shape[1]
        if confusion is None:
            confusion = np.zeros((classes, classes), np.int64)
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        logits = np.where(finite[:, None], logits, np.nan)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        top = logits.max(axis=1, keepdims=True)
        total = np.exp(logits - top).sum(axis=1)
        losses.append(np.log(total) - (own - top)[:, 0])
        ahead = (logits > own) | ((logits == own) & (np.arange(classes) < labels[:, None]))
        ranks.append(np.where(finite, ahead.sum(axis=1), classes))
        predicted.append(logits.argmax(axis=1))
        confidence.append(np.where(finite, 1 / total, 0.0))
        np.add.at(confusion, (labels[finite], predicted[-1][finite]), 1)
    if confusion is None:
        raise ValueError("Expected at least one image to evaluate, received none.")
    rank, classes = np.concatenate(ranks), len(confusion)
    counts, hits = (np.bincount(labels, minlength=classes) for labels in (split.labels, split.labels[rank < 1]))
    return Evaluation(
        loss=math.fsum(np.concatenate(losses)) / len(split),
        accuracy=int((rank < 1).sum()) / len(split),
        top5_accuracy=int((rank < min(5, classes)).sum()) / len(split),
        class_accuracy=np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0),
        confusion=confusion,
        predicted=np.concatenate(predicted),
        confidence=np.concatenate(confidence),
        right=rank < 1,
        class_counts=counts,
    )
