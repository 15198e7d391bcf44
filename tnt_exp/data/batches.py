"""The order in which images are seen, and the arrays that the training loop takes.

Shapes: S steps of a chunk, B images of a batch, (H, W, C) an image.
"""

from collections.abc import Iterator

import numpy as np

from tnt_exp.data.dataset import Split
from tnt_exp.data.order import Purpose, order


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The order of `samples` images in an epoch: a permutation (int64) and a function of its arguments alone."""
    return order(samples, Purpose.epoch, seed, epoch)


class Batches:
    """Shuffled batches of a split, the last incomplete batch of an epoch left out.

    Args:
        split: The images; at least `batch_size` of them.
        batch_size: Images a step.
        seed: With the epoch, all that the order depends on.
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        self.split = split
        self.batch_size = batch_size
        self.seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the split."""
        return len(self.split) // self.batch_size

    def chunks(self, epoch: int, start_step: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rest of an epoch from `start_step` on, `steps` steps at a time (the last chunk may be shorter).

        Yields:
            images uint8 (S, B, H, W, C) and labels int32 (S, B), in memory of their own.
        """
        positions = epoch_order(self.seed, epoch, len(self.split))
        for first in range(start_step, self.steps_per_epoch, steps):
            last = min(first + steps, self.steps_per_epoch)
            chosen = positions[first * self.batch_size : last * self.batch_size]
            shape = (last - first, self.batch_size)
            images = np.take(self.split.images, chosen, axis=0)
            labels = np.take(self.split.labels, chosen)
            yield images.reshape(shape + images.shape[1:]), labels.reshape(shape)


def padded(split: Split, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield every image of a split once, in order, in batches of one static shape, for evaluation.

    Yields:
        images uint8 (B, H, W, C), labels int32 (B,) and how many of them are real: the last batch
        is filled up by repeating the last image.
    """
    for first in range(0, len(split), batch_size):
        count = min(batch_size, len(split) - first)
        if count == batch_size:
            part = slice(first, first + batch_size)
            yield split.images[part], split.labels[part], count
        else:
            positions = np.minimum(np.arange(first, first + batch_size), len(split) - 1)
            yield split.images[positions], split.labels[positions], count
