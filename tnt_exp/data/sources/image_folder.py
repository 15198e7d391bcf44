"""The user's own images, one folder per class."""

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np

from tnt_exp.config.dataset import DatasetConfig, OnError
from tnt_exp.data.dataset import FileRecord, RawDataset, Split
from tnt_exp.data.sources.folder_layout import ClassFolders, describe_left_out, folder_layout, list_images
from tnt_exp.data.sources.source import DatasetInfo, DatasetSource, required_path
from tnt_exp.errors import UserError, printable_name, wrap_read_errors
from tnt_exp.hardware import cpu_count

_log = logging.getLogger(__name__)

_CHECKED_FILES_PER_TASK = 32
_GIB = 2**30


class ImageFolderSource(DatasetSource):
    """Image files in one folder per class; held in memory, or decoded when they are needed if they are too many."""

    own_keys = frozenset({"image_size", "channels", "memory_limit"})

    def __init__(self, classes: int = 2) -> None:
        self._classes = classes  # at least

    def info(self, config: DatasetConfig) -> DatasetInfo:
        """See `DatasetSource`."""
        return DatasetInfo(height=config.image_size, width=config.image_size, channels=config.channels)

    def validate(self, config: DatasetConfig) -> None:
        """See `DatasetSource`."""
        if config.image_size is None:
            raise UserError(
                "dataset.image_size: expected a side in pixels for dataset=image_folder, received none; give it"
            )
        path = required_path(config)
        if not path.is_dir():
            raise UserError(f"dataset.path={path}: expected a folder of class folders, received a file; unpack it")
        folder_layout(path, classes=self._classes)

    def read(self, config: DatasetConfig) -> RawDataset:
        """List the files (see `folder_layout`); images are read when they are taken."""
        root = required_path(config)
        folders = folder_layout(root, classes=self._classes)
        for name in folders.unread:
            _log.warning("%s: folder %s beside train is not read", printable_name(root), name)

        def files(part: ClassFolders | None, name: str) -> "ImageFiles | None":
            return None if part is None else ImageFiles.of_folders(part, config, name, root)

        # Validation and test images may be drawn from the same folder.
        name = "training images" if folders.validation and folders.test else "images"
        train = ImageFiles.of_folders(folders.train, config, name, root)
        validation = files(folders.validation, "validation images")
        test = files(folders.test, "test images")
        left_out = sum((part.left_out for part in (train, validation, test) if part is not None), Counter())
        if left_out:
            _log.warning("%s: left out: %s", printable_name(root), describe_left_out(left_out))
        return RawDataset(train=train, validation=validation, test=test, class_names=folders.class_names)


SOURCES = {"image_folder": ImageFolderSource()}


def read_files(root: Path, names: Sequence[str], labels: np.ndarray, config: DatasetConfig) -> Split:
    """Read those of the files that exist; `names` are their paths in `root` (printable), `labels` int32 (names,)."""
    odd = {printable_name(f.relative_to(root)): f for f in root.rglob("*")} if "\ufffd" in "".join(names) else {}
    paths = [odd.get(name, root / name) for name in names]
    there = np.array([path.is_file() for path in paths], bool)
    files = ImageFiles(paths, labels, config, "test images", root)
    return files.take(np.flatnonzero(there))


@dataclass(eq=False)
class ImageFiles:
    """Image files with their classes; a `LazySplit`."""

    files: list[Path]
    labels: np.ndarray  # int32 (files,)
    config: DatasetConfig
    name: str  # what they are, in messages
    root: Path
    left_out: Counter[str] = field(default_factory=Counter)  # other files, by suffix

    @classmethod
    def of_folders(cls, folders: ClassFolders, config: DatasetConfig, name: str, root: Path) -> Self:
        """List the images of class folders."""
        files: list[Path] = []
        labels: list[int] = []
        left_out: Counter[str] = Counter()
        for label, folder in folders:
            found = list_images(folder)
            left_out += found.left_out
            if not found.files:
                others = f" ({describe_left_out(found.left_out)})" if found.left_out else ""
                raise UserError(
                    f"{printable_name(folder)}: expected images (.png, .jpg, ...) of a class, received none{others}; "
                    "add some or remove the folder"
                )
            files += found.files
            labels += [label] * len(found.files)
        return cls(files, np.array(labels, np.int32), config, name, root, left_out)

    def take(self, positions: np.ndarray) -> Split:
        """Read the files at `positions`; unreadable ones are left out if `on_error` is skip.

        Images that need more than `dataset.memory_limit` stay in their files: every file is read once and checked, so
        that a damaged one is found here and not in the middle of training. Raises `UserError` if a file is unreadable
        and `on_error` is stop, if no image is left, or if memory does not suffice.
        """
        from tnt_exp.data.image_files import FileImages  # Pillow is slow to import

        size, channels = int(self.config.image_size or 0), self.config.channels  # validated
        shape = (len(positions), size, size, channels)
        held = np.prod(shape, dtype=object) <= self.config.memory_limit * _GIB
        _check_memory(shape if held else (1, *shape[1:]))
        pixels = np.empty(shape, np.uint8) if held else None
        hashes, readable = self._read([self.files[position] for position in positions], pixels)
        if not readable.any():
            raise UserError(f"expected {self.name}, received {len(positions)} files, none of which can be read")
        kept, hashes = positions[readable], hashes[readable]
        files = [self.files[position] for position in kept]
        images: np.ndarray | FileImages
        if pixels is None:
            _log.info("%d %s are decoded ahead of each step (dataset.memory_limit)", len(kept), self.name)
            images = FileImages(files, size, channels)
        else:
            images = pixels if readable.all() else pixels[readable]
        records = tuple(
            FileRecord(printable_name(file.relative_to(self.root)), sha256.tobytes().hex())
            for file, sha256 in zip(files, hashes, strict=True)
        )
        return Split(images, self.labels[kept], hashlib.sha256(hashes.tobytes()).digest(), records)

    def _read(self, files: list[Path], images: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Read all files on all cores, into `images` or only to check them.

        Returns SHA-256 of each file, uint8 (files, 32), and whether it can be read, bool (files,).
        """
        from rich.console import Console  # slow to import
        from rich.progress import track

        from tnt_exp.data.image_files import decode_pixels

        hashes = np.zeros((len(files), 32), np.uint8)
        readable = np.ones(len(files), bool)
        title = f"{'checking' if images is None else 'decoding'} {len(files)} {self.name}"
        _log.info(title)
        size = 1 if images is None else images.shape[1]

        def read_some(first: int) -> list[tuple[int, UserError]]:
            errors = []
            for index, file in enumerate(files[first : first + _CHECKED_FILES_PER_TASK], first):
                try:
                    with wrap_read_errors(file):
                        encoded = file.read_bytes()
                    hashes[index] = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
                    pixels = decode_pixels(encoded, file, size, self.config.channels)
                    if images is not None:
                        images[index] = pixels
                except UserError as error:
                    errors.append((index, error))
            return errors

        starts = range(0, len(files), _CHECKED_FILES_PER_TASK)
        pool = ThreadPoolExecutor(cpu_count())
        try:
            done = track(
                pool.map(read_some, starts),
                description=title,
                total=len(starts),
                console=Console(stderr=True),
                disable=not sys.stderr.isatty(),
            )
            for index, error in chain.from_iterable(done):
                if self.config.on_error is OnError.stop:
                    raise UserError(f"{error} (dataset.on_error=skip leaves unreadable images out)")
                _log.warning("left out: %s", error)
                readable[index] = False
        finally:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C waits only for what is being decoded
        return hashes, readable


def _check_memory(shape: tuple[int, ...]) -> None:
    import psutil  # slow to import

    needed, free = int(np.prod(shape, dtype=object)), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"dataset.image_size={shape[1]}: {shape[0]} images need {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; choose a smaller size, dataset.train_limit or dataset.memory_limit"
        )
