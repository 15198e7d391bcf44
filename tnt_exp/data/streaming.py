"""Images that stay in their files and are decoded by all cores, ahead of whoever takes them.

Threads and Pillow, not tf.data: the pixels are those of the images held in memory, to the bit (TensorFlow decodes and
resizes differently), every format and EXIF turn is known, it is the faster decoder (see `decoding`), and JAX and
PyTorch need no TensorFlow for it. Nothing depends on which thread is done first: each image has its place in an array
before it is decoded.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tnt_exp.cores import cores
from tnt_exp.data.decoding import decode

_FILES_A_TASK = 4
_AHEAD = 16  # images a core that are being decoded or wait for the reader: enough that no core waits

Selection = slice | np.ndarray


class FileImages:
    """Stands where an array of images would; each taking decodes anew.

    Args:
        files: One an image.
        size: Side of an image, pixels (see `decode`).
        channels: 1 (grey) or 3 (RGB).

    Attributes:
        files: One an image.
        shape: (images, height, width, channels).
    """

    def __init__(self, files: Sequence[Path], size: int, channels: int) -> None:
        self.files = files
        self.shape = (len(files), size, size, channels)

    def __getitem__(self, chosen: Selection) -> np.ndarray:
        """Decode a slice, or the images at some positions: uint8 (chosen, H, W, C)."""
        return next(self.ahead([chosen]))

    def ahead(self, selections: Iterable[Selection]) -> Iterator[np.ndarray]:
        """Yield the images of each selection in turn, while those of the next are being decoded.

        At most two selections, or a few images a core where these are more, are in memory besides the yielded one.

        Raises:
            InputError: A file can no longer be read.
        """
        everything = np.arange(len(self.files))
        waiting: deque[tuple[np.ndarray, list[Future[None]]]] = deque()
        pool = ThreadPoolExecutor(cores())
        try:
            for selection in selections:
                while len(waiting) >= 2 and sum(len(images) for images, _ in waiting) >= _AHEAD * cores():
                    yield _whole(*waiting.popleft())
                files = [self.files[position] for position in everything[selection]]
                images = np.empty((len(files), *self.shape[1:]), np.uint8)
                starts = range(0, len(files), _FILES_A_TASK)
                waiting.append((images, [pool.submit(_fill, images, files, start) for start in starts]))
            while waiting:
                yield _whole(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)  # whoever stops early waits for no more than is being decoded


def _fill(images: np.ndarray, files: Sequence[Path], start: int) -> None:
    _, size, _, channels = images.shape
    for index in range(start, min(start + _FILES_A_TASK, len(files))):
        images[index] = decode(files[index], size, channels)


def _whole(images: np.ndarray, tasks: Iterable[Future[None]]) -> np.ndarray:
    for task in tasks:
        task.result()
    return images
