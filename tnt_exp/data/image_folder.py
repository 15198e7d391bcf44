"""Images of one's own, a folder a class: held in memory, or left in their files where they are too many."""

import hashlib
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from tnt_exp.config.dataset import DatasetConfig, OnError
from tnt_exp.config.errors import InputError
from tnt_exp.cores import cores
from tnt_exp.data.checks import image_size
from tnt_exp.data.dataset import Parts, Split
from tnt_exp.data.decoding import check, content, pixels
from tnt_exp.data.folders import ClassFolders, image_files, layout
from tnt_exp.data.reading import shown
from tnt_exp.data.streaming import FileImages

_log = logging.getLogger(__name__)
_FILES_A_TASK = 32
_GIB = 2**30


def read_image_folder(root: Path, config: DatasetConfig) -> Parts:
    """List a folder of class folders (see `layout`); images are read when they are taken.

    Raises:
        InputError: Not two classes, or a class without images.
    """
    folders = layout(root)
    for name in folders.unread:
        _log.warning("%s: folder %s beside train is not read", shown(root), name)

    def files(part: ClassFolders | None, name: str) -> "Files | None":
        return None if part is None else Files(part, config, name)

    return Parts(
        train=Files(folders.train, config, "training images"),
        validation=files(folders.validation, "validation images"),
        test=files(folders.test, "test images"),
        class_names=folders.class_names,
    )


class Files:
    """Image files with their classes; a `Part` that is read only where it is taken.

    Attributes:
        labels: int32 (files,).
    """

    def __init__(self, folders: ClassFolders, config: DatasetConfig, name: str) -> None:
        self._config, self._name = config, name
        self._size = image_size(config)
        self._files: list[Path] = []
        labels: list[int] = []
        for label, folder in folders:
            found = list(image_files(folder))
            if not found:
                raise InputError(
                    f"{shown(folder)}: expected images (.png, .jpg, ...) of a class, received none; "
                    "add some or remove the folder"
                )
            self._files += found
            labels += [label] * len(found)
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def take(self, positions: np.ndarray) -> Split:
        """Read the files at `positions`; shorter than these where unreadable ones are skipped.

        Images that need more than `dataset.memory_limit` stay in their files: every file is read once and checked, so
        that one that is damaged is found here, not in the middle of training.

        Raises:
            InputError: A file is unreadable and `on_error` is stop, nothing is left, or memory would not do.
        """
        shape = (len(positions), self._size, self._size, self._config.channels)
        held = np.prod(shape, dtype=object) <= self._config.memory_limit * _GIB
        _check_memory(shape if held else (1, *shape[1:]))
        images = np.empty(shape, np.uint8) if held else None
        files = [self._files[position] for position in positions]
        hashes, readable = self._read(files, images)
        if not readable.any():
            raise InputError(f"expected {self._name}, received {len(positions)} files, none of which can be read")
        digest = hashlib.sha256(hashes[readable].tobytes()).digest()
        labels = self.labels[positions][readable]
        if images is not None:
            return Split(images if readable.all() else images[readable], labels, digest)
        _log.info("%d %s are decoded ahead of each step (dataset.memory_limit)", len(labels), self._name)
        kept = [file for file, good in zip(files, readable, strict=True) if good]
        return Split(FileImages(kept, self._size, self._config.channels), labels, digest)

    def _read(self, files: list[Path], images: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Read all files on all cores, into `images` or only to check them.

        Returns:
            SHA-256 of each file, uint8 (files, 32), and whether it can be read, bool (files,).
        """
        hashes = np.zeros((len(files), 32), np.uint8)
        readable = np.ones(len(files), bool)
        verb = "checking" if images is None else "decoding"
        _log.info("%s %d %s", verb, len(files), self._name)
        pool = ThreadPoolExecutor(cores())
        try:
            for index, error in self._unreadable(files, images, hashes, pool, f"{verb} {len(files)} {self._name}"):
                if self._config.on_error is OnError.stop:
                    raise InputError(f"{error} (dataset.on_error=skip leaves unreadable images out)")
                _log.warning("left out: %s", error)
                readable[index] = False
        finally:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C waits for no more than is being decoded
        return hashes, readable

    def _unreadable(
        self, files: list[Path], images: np.ndarray | None, hashes: np.ndarray, pool: ThreadPoolExecutor, title: str
    ) -> Iterator[tuple[int, InputError]]:
        """Fill `images` and `hashes`; yield (index, error) of the unreadable, in order."""
        size, channels = self._size, self._config.channels

        def one(index: int) -> None:
            encoded = content(files[index])
            hashes[index] = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
            if images is None:
                check(encoded, files[index], channels)
            else:
                images[index] = pixels(encoded, files[index], size, channels)

        def some(first: int) -> list[tuple[int, InputError]]:
            errors = []
            for index in range(first, min(first + _FILES_A_TASK, len(files))):
                try:
                    one(index)
                except InputError as error:
                    errors.append((index, error))
            return errors

        starts = range(0, len(files), _FILES_A_TASK)
        done = track(
            pool.map(some, starts),
            description=title,
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
            f"{free / 1e9:.1f} GB are free; choose a smaller size, dataset.train_limit or dataset.memory_limit"
        )
