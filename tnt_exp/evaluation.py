"""Measure a classifier on a split: the same evaluator inside training and alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnt_exp.data.batches import padded
from tnt_exp.data.dataset import Split


@dataclass(frozen=True)
class Evaluation:
    """What a classifier does on a split.

    Attributes:
        loss: Mean cross-entropy, without label smoothing.
        accuracy, top5_accuracy: Part of the images whose class is the first, or among the first five.
        confusion: int64 (classes, classes): row = true class, column = predicted class.
    """

    loss: float
    accuracy: float
    top5_accuracy: float
    confusion: np.ndarray

    def metrics(self, prefix: str) -> Iterator[tuple[str, float]]:
        """(name, value) pairs, names beginning with `prefix`."""
        yield f"{prefix}/loss", self.loss
        yield f"{prefix}/accuracy", self.accuracy
        yield f"{prefix}/top5_accuracy", self.top5_accuracy

    @property
    def class_accuracy(self) -> np.ndarray:
        """float64 (classes,): accuracy within each class, NaN where the split has no image of it."""
        counts = self.confusion.sum(axis=1)
        return np.divide(np.diag(self.confusion), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def evaluate(classifier: Any, split: Split, batch_size: int) -> Evaluation:
    """Run the classifier over a split.

    Args:
        classifier: uint8 images (B, H, W, C) -> logits (B, classes).
        split: Images and labels.
        batch_size: Images a call; every call has this static shape.
    """
    loss, correct, top5 = 0.0, 0, 0
    confusion = None
    for images, labels, count in padded(split, batch_size):
        # Sums are float64 on the host, so that the figures depend neither on the backend nor on the batch size.
        logits = np.asarray(classifier.predict_on_batch(images), np.float64)[:count]
        labels = labels[:count]
        if confusion is None:
            confusion = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        top = logits.max(axis=1, keepdims=True)
        loss += float(np.sum(np.log(np.exp(logits - top).sum(axis=1)) - (own - top)[:, 0]))
        rank = (logits > own).sum(axis=1)
        correct += int((rank < 1).sum())
        top5 += int((rank < 5).sum())
        np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    if confusion is None:
        raise ValueError("Expected at least one image to evaluate, received none.")
    return Evaluation(loss / len(split), correct / len(split), top5 / len(split), confusion)
