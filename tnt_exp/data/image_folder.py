"""Images of one's own, a folder a class, decoded on all cores."""

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from tnt_exp.config.dataset import OnError
from tnt_exp.config.errors import InputError
from tnt_exp.data.dataset import Parts, Split
from tnt_exp.data.folders import ClassFolders, image_files, layout
from tnt_exp.data.reading import reading, shown

_log = logging.getLogger(__name__)
_FILES_A_TASK = 32


def read_image_folder(root: Path, size: int, channels: int, on_error: OnError) -> Parts:
    """List a folder of class folders (see `layout`); images are decoded when they are taken.

    Raises:
        InputError: Not two classes, or a class without images.
    """
    folders = layout(root)
    for name in folders.unread:
        _log.warning("%s: folder %s beside train is not read", shown(root), name)

    def files(part: ClassFolders | None, name: str) -> "Files | None":
        return None if part is None else Files(part, size, channels, on_error, name)

    train = Files(folders.train, size, channels, on_error, "training images")
    return Parts(
        train=train,
        validation=files(folders.validation, "validation images"),
        test=files(folders.test, "test images"),
        class_names=folders.class_names,
    )


def decode(file: Path, size: int, channels: int) -> np.ndarray:
    """Decode an image to uint8 (size, size, channels): turned as EXIF says, short side resized, middle kept.

    Raises:
        InputError: It cannot be decoded.
    """
    with reading(file), Image.open(file) as image:
        # Lets the JPEG decoder skip detail that the resize would drop; twice the size leaves it enough.
        image.draft(None, (2 * size, 2 * size))
        upright = _converted(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        fitted = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
        return np.asarray(fitted).reshape(size, size, channels)


def _converted(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow would cut 16-bit levels off at 255.
        image = Image.fromarray((np.asarray(image, np.uint32) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"levels of mode {image.mode}, whose range is not known")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


class Files:
    """Image files with their classes; a `Part` that is read only where it is taken.

    Attributes:
        labels: int32 (files,).
    """

    def __init__(self, folders: ClassFolders, size: int, channels: int, on_error: OnError, name: str) -> None:
        self.size, self.channels, self.on_error, self.name = size, channels, on_error, name
        self.files: list[Path] = []
        labels: list[int] = []
        for label, folder in folders:
            found = list(image_files(folder))
            if not found:
                raise InputError(
                    f"{shown(folder)}: expected images (.png, .jpg, ...) of a class, received none; "
                    "add some or remove the folder"
                )
            self.files += found
            labels += [label] * len(found)
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, positions: np.ndarray) -> Split:
        """Decode the files at `positions`; shorter than these where unreadable ones are skipped.

        Raises:
            InputError: A file is unreadable and `on_error` is stop, nothing is left, or memory would not do.
        """
        shape = (len(positions), self.size, self.size, self.channels)
        _check_memory(shape)
        images = np.empty(shape, np.uint8)
        readable = np.ones(len(positions), bool)
        _log.info("decoding %d %s", len(positions), self.name)
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            for index, error in self._decode_into(images, positions, pool):
                if self.on_error is OnError.stop:
                    raise InputError(f"{error} (dataset.on_error=skip leaves unreadable images out)")
                _log.warning("left out: %s", error)
                readable[index] = False
        finally:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C waits for no more than is being decoded
        if not readable.any():
            raise InputError(f"expected {self.name}, received {len(positions)} files, none of which can be read")
        labels = self.labels[positions]
        return Split(images, labels) if readable.all() else Split(images[readable], labels[readable])

    def _decode_into(
        self, images: np.ndarray, positions: np.ndarray, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, InputError]]:
        """Fill `images`; yield (index, error) of the unreadable, in order."""

        def some(first: int) -> list[tuple[int, InputError]]:
            errors = []
            for index in range(first, min(first + _FILES_A_TASK, len(positions))):
                try:
                    images[index] = decode(self.files[positions[index]], self.size, self.channels)
                except InputError as error:
                    errors.append((index, error))
            return errors

        starts = range(0, len(positions), _FILES_A_TASK)
        done = track(
            pool.map(some, starts),
            description=f"decoding {len(positions)} {self.name}",
            total=len(starts),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        return chain.from_iterable(done)


def _check_memory(shape: tuple[int, ...]) -> None:
    needed, free = int(np.prod(shape, dtype=object)), psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"dataset.image_size={shape[1]}: {shape[0]} images need {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; choose a smaller size or dataset.train_limit"
        )
