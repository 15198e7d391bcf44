"""The order in which images are seen, and the arrays that the trainer reads.

Shapes: S steps of a chunk, B images of a batch, (H, W, C) an image.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from tnt_exp.data.dataset import Split
from tnt_exp.data.splits import RandomStream, random_order

_CHUNK_BYTES = 2**28


def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """Return the order of `samples` images in an epoch: a permutation (int64), a function of its arguments alone."""
    return random_order(samples, RandomStream.epoch, seed, epoch)


class Batches:
    """Shuffled batches of a split.

    Args:
        split: The images; at least `batch_size` of them where an epoch is a pass over them.
        batch_size: Images per step.
        seed: With the epoch, it determines the order.
        repeats: How often each image is in a batch, in a row; divides `batch_size`. An epoch has the same number of
            steps, and so shows one image in `repeats` (arXiv 1901.09335; timm's RASampler).
        steps_per_epoch: Batches of an epoch: cut from passes over all images, each in an order of its own, where the
            epoch before ended. None: an epoch is one pass, whose last incomplete batch is left out.
        part, parts: `chunks` reads this one of so many equal parts of each batch; they divide its distinct images.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        repeats: int = 1,
        steps_per_epoch: int | None = None,
        *,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        self.split, self.batch_size, self.seed, self.repeats = split, batch_size, seed, repeats
        self._part, self._parts = part, parts
        self.steps_per_epoch = steps_per_epoch or len(split) // batch_size
        # Images of a pass that are seen.
        self._pass_length = len(split) if steps_per_epoch else self.steps_per_epoch * (batch_size // repeats)

    @property
    def max_chunk_steps(self) -> int:
        """The number of steps whose images fill a quarter of a GiB; at least one."""
        return max(1, _CHUNK_BYTES // (self.batch_size * int(np.prod(self.split.images.shape[1:]))))

    def chunk_positions(self, epoch: int, start_step: int, steps: int) -> list[np.ndarray]:
        """Return the positions of the images of each chunk, each image once however often it is repeated."""
        distinct = self.batch_size // self.repeats  # images of a batch
        length = self.steps_per_epoch * distinct
        passes, skipped = divmod(epoch * length, self._pass_length)
        count = -(-(skipped + length) // self._pass_length)
        orders = (epoch_order(self.seed, passes + index, len(self.split)) for index in range(count))
        positions = np.concatenate([order[: self._pass_length] for order in orders])[skipped:]
        steps_done = [*range(start_step, self.steps_per_epoch, steps), self.steps_per_epoch]
        return [positions[a * distinct : b * distinct] for a, b in pairwise(steps_done)]

    def chunks(self, epoch: int, start_step: int, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rest of an epoch from `start_step` on, `steps` steps at a time (the last chunk may be shorter).

        Images are uint8 (S, B, H, W, C), labels int32 (S, B), in memory of their own; B: those of the part.
        """
        chosen = self.chunk_positions(epoch, start_step, steps)
        if self._parts > 1:
            batches = [positions.reshape(-1, self.batch_size // self.repeats) for positions in chosen]
            chosen = [np.split(batch, self._parts, axis=1)[self._part].reshape(-1) for batch in batches]
        for positions, images in zip(chosen, _take(self.split, chosen), strict=True):
            labels = self.split.labels[positions]
            if self.repeats > 1:
                images, labels = (np.repeat(values, self.repeats, axis=0) for values in (images, labels))
            labels = labels.reshape(-1, self.batch_size // self._parts)
            yield images.reshape(labels.shape + images.shape[1:]), labels


def padded_batches(split: Split, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield every image of a split once, in order, in batches of one static shape, for evaluation.

    A batch is images uint8 (B, H, W, C), labels int32 (B,), and how many of them are real: the last batch is filled by
    repeating the last image.
    """
    parts = [slice(first, first + batch_size) for first in range(0, len(split), batch_size)]
    for part, images in zip(parts, _take(split, parts), strict=True):
        labels, count = split.labels[part], len(images)
        if count < batch_size:
            filled = np.minimum(np.arange(batch_size), count - 1)
            images, labels = images[filled], labels[filled]
        yield images, labels, count


def _take(split: Split, selections: Sequence[slice | np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the images of each selection; those in files are decoded ahead."""
    images = split.images
    if isinstance(images, np.ndarray):
        return (images[selection] for selection in selections)
    return images.prefetch(selections)
