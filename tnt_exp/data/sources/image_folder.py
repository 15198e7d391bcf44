"""The user's own images, one folder per class."""

import hashlib
import logging
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from tnt_exp.config.dataset import DatasetConfig, OnError
from tnt_exp.data.dataset import RawDataset, Split
from tnt_exp.data.metadata import DatasetInfo, required_path
from tnt_exp.data.sources.source import DatasetSource
from tnt_exp.errors import UserError, printable_name, wrap_read_errors
from tnt_exp.hardware import cpu_count

_log = logging.getLogger(__name__)

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_VALIDATION = ("val", "valid", "validation")
_CHECKED_FILES_PER_TASK = 32
_GIB = 2**30

ClassFolders = tuple[tuple[int, Path], ...]  # class number and one of its folders


@dataclass(frozen=True)
class FolderLayout:
    """The classes, sorted by name, and the folders of each part; None: there is no such part."""

    class_names: tuple[str, ...]
    train: ClassFolders
    validation: ClassFolders | None = None
    test: ClassFolders | None = None
    unread: tuple[str, ...] = ()  # folders beside train that are not read


def folder_layout(root: Path) -> FolderLayout:
    """Find the class folders of `root`.

    `root` holds train/ with one folder per class (and test/, val/ with the same), or the class folders themselves.
    A class may itself be called "train": then that folder holds images, not folders.

    Raises:
        UserError: There are fewer than two classes, or a part has a class that training does not have.
    """
    top = _subfolders(root)
    parts = {name.lower(): folder for name, folder in top}
    train = parts.get("train")
    if train is None or not _subfolders(train):
        names = _class_names(root, top)
        return FolderLayout(names, _numbered(names, top, root))

    names = _class_names(train, _subfolders(train))
    validations = [parts[name] for name in _VALIDATION if name in parts]
    if len(validations) > 1:
        listed = ", ".join(printable_name(folder.name) for folder in validations)
        raise UserError(
            f"dataset.path={printable_name(root)}: expected one validation folder, received {listed}; keep one"
        )

    def part(folder: Path | None) -> ClassFolders | None:
        return None if folder is None else _numbered(names, _subfolders(folder), folder)

    return FolderLayout(
        class_names=names,
        train=_numbered(names, _subfolders(train), train),
        validation=part(validations[0] if validations else None),
        test=part(parts.get("test")),
        unread=tuple(sorted(parts.keys() - {"train", "test", *_VALIDATION})),
    )


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders, recognised by their suffix, in a fixed order.

    Hidden files and other files are skipped; links are followed, but never in circles.

    Raises:
        UserError: A folder cannot be listed.
    """
    yield from _walk(folder, frozenset())


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    with wrap_read_errors(folder):
        status = folder.stat()
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        below = {entry for entry in entries if entry.is_dir()}
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry in below:
            yield from _walk(entry, above | {here})
        elif entry.suffix.lower() in _SUFFIXES:
            yield entry


def _subfolders(folder: Path) -> list[tuple[str, Path]]:
    with wrap_read_errors(folder):
        here = folder.resolve()
        entries = [
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".")
            and entry.is_dir()
            and not here.is_relative_to(entry.resolve())  # a link to a parent folder is not a class
        ]
    # One spelling of accented letters (macOS stores them decomposed): the same data, the same classes.
    return sorted((unicodedata.normalize("NFC", printable_name(entry.name)), entry) for entry in entries)


def _class_names(root: Path, folders: list[tuple[str, Path]]) -> tuple[str, ...]:
    names = tuple(sorted({name for name, _ in folders}))
    if len(names) < 2:
        raise UserError(
            f"dataset.path={printable_name(root)}: expected two or more class folders, "
            f"received {', '.join(names) or 'none'}; put the images of each class into a folder of its own"
        )
    return names


def _numbered(names: tuple[str, ...], folders: list[tuple[str, Path]], part: Path) -> ClassFolders:
    unknown = [name for name, _ in folders if name not in names]
    if unknown or not folders:
        raise UserError(
            f"{printable_name(part)}: expected class folders of the training part, "
            f"received {', '.join(unknown[:5]) or 'none'}; name them as in train/, or move the folder away"
        )
    return tuple((names.index(name), folder) for name, folder in folders)


class ImageFolderSource(DatasetSource):
    """Image files in one folder per class; held in memory, or decoded when they are needed if they are too many."""

    own_keys = frozenset({"image_size", "channels", "memory_limit"})

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
            raise UserError(
                f"dataset.path={path}: expected a folder of class folders, received a file; unpack it first"
            )
        folder_layout(path)

    def read(self, config: DatasetConfig) -> RawDataset:
        """List the files (see `folder_layout`); images are read when they are taken."""
        root = required_path(config)
        folders = folder_layout(root)
        for name in folders.unread:
            _log.warning("%s: folder %s beside train is not read", printable_name(root), name)

        def files(part: ClassFolders | None, name: str) -> "ImageFiles | None":
            return None if part is None else ImageFiles(part, config, name)

        return RawDataset(
            train=ImageFiles(folders.train, config, "training images"),
            validation=files(folders.validation, "validation images"),
            test=files(folders.test, "test images"),
            class_names=folders.class_names,
        )


SOURCES = {"image_folder": ImageFolderSource()}


class ImageFiles:
    """Image files with their classes; a `LazySplit`.

    Attributes:
        labels: int32 (files,).
    """

    def __init__(self, folders: ClassFolders, config: DatasetConfig, name: str) -> None:
        self._config, self._name = config, name
        self._size = int(config.image_size or 0)  # validated
        self._files: list[Path] = []
        labels: list[int] = []
        for label, folder in folders:
            found = list(image_files(folder))
            if not found:
                raise UserError(
                    f"{printable_name(folder)}: expected images (.png, .jpg, ...) of a class, received none; "
                    "add some or remove the folder"
                )
            self._files += found
            labels += [label] * len(found)
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def take(self, positions: np.ndarray) -> Split:
        """Read the files at `positions`; unreadable ones are left out if `on_error` is skip.

        Images that need more than `dataset.memory_limit` stay in their files: every file is read once and checked, so
        that a damaged one is found here and not in the middle of training.

        Raises:
            UserError: A file is unreadable and `on_error` is stop, no image is left, or memory does not suffice.
        """
        from tnt_exp.data.image_files import FileImages  # Pillow is slow to import

        shape = (len(positions), self._size, self._size, self._config.channels)
        held = np.prod(shape, dtype=object) <= self._config.memory_limit * _GIB
        _check_memory(shape if held else (1, *shape[1:]))
        images = np.empty(shape, np.uint8) if held else None
        files = [self._files[position] for position in positions]
        hashes, readable = self._read(files, images)
        if not readable.any():
            raise UserError(f"expected {self._name}, received {len(positions)} files, none of which can be read")
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
        pool = ThreadPoolExecutor(cpu_count())
        try:
            for index, error in self._unreadable(files, images, hashes, pool, f"{verb} {len(files)} {self._name}"):
                if self._config.on_error is OnError.stop:
                    raise UserError(f"{error} (dataset.on_error=skip leaves unreadable images out)")
                _log.warning("left out: %s", error)
                readable[index] = False
        finally:
            pool.shutdown(cancel_futures=True)  # an error or Ctrl-C waits only for what is being decoded
        return hashes, readable

    def _unreadable(
        self, files: list[Path], images: np.ndarray | None, hashes: np.ndarray, pool: ThreadPoolExecutor, title: str
    ) -> Iterator[tuple[int, UserError]]:
        """Fill `images` and `hashes`; yield (index, error) of the unreadable files, in order."""
        from tnt_exp.data.image_files import decode_pixels, read_bytes, verify_image

        size, channels = self._size, self._config.channels

        def one(index: int) -> None:
            encoded = read_bytes(files[index])
            hashes[index] = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
            if images is None:
                verify_image(encoded, files[index], channels)
            else:
                images[index] = decode_pixels(encoded, files[index], size, channels)

        def some(first: int) -> list[tuple[int, UserError]]:
            errors = []
            for index in range(first, min(first + _CHECKED_FILES_PER_TASK, len(files))):
                try:
                    one(index)
                except UserError as error:
                    errors.append((index, error))
            return errors

        from rich.console import Console  # slow to import
        from rich.progress import track

        starts = range(0, len(files), _CHECKED_FILES_PER_TASK)
        done = track(
            pool.map(some, starts),
            description=title,
            total=len(starts),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        return chain.from_iterable(done)


def _check_memory(shape: tuple[int, ...]) -> None:
    import psutil  # slow to import

    needed, free = int(np.prod(shape, dtype=object)), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"dataset.image_size={shape[1]}: {shape[0]} images need {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free; choose a smaller size, dataset.train_limit or dataset.memory_limit"
        )
