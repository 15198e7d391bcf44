"""Batches of images that lie in the memory of the device."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import ops

from tnt_exp.data import Batches
from tnt_exp.data.dataset import Split

_MAX_BYTES = 2**31  # every GPU that trains has room for so much


class DeviceBatches(Batches):
    """`Batches` whose images are copied to the device once; a chunk is gathered there, from positions.

    Args:
        split, batch_size, seed, repeats: See `Batches`; `split` must fit (`fits`).
    """

    def __init__(self, split: Split, batch_size: int, seed: int, repeats: int = 1) -> None:
        super().__init__(split, batch_size, seed, repeats)
        self._images = ops.convert_to_tensor(split.images)

    @staticmethod
    def fits(split: Split) -> bool:
        """Whether the images are in memory, and few enough for that of a device."""
        return isinstance(split.images, np.ndarray) and split.images.nbytes <= _MAX_BYTES

    def chunks(self, epoch: int, start_step: int, steps: int) -> Iterator[tuple[Any, np.ndarray]]:
        """See `Batches`; the images are on the device."""
        for chosen in self.chunk_positions(epoch, start_step, steps):
            positions = np.repeat(chosen, self.repeats).reshape(-1, self.batch_size).astype(np.int32)
            yield ops.take(self._images, positions, axis=0), self.split.labels[positions]
