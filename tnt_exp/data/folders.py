"""Which folders of an image folder are classes, and which files in them are images."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tnt_exp.config.errors import InputError
from tnt_exp.data.reading import reading, shown

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VALIDATION = ("val", "valid", "validation")

ClassFolders = tuple[tuple[int, Path], ...]  # class number and one of its folders


@dataclass(frozen=True)
class FolderLayout:
    """The classes, by name in rising order, and the folders of each part; None: the part is not there."""

    class_names: tuple[str, ...]
    train: ClassFolders
    validation: ClassFolders | None = None
    test: ClassFolders | None = None
    unread: tuple[str, ...] = ()  # folders beside train that are no part


def layout(root: Path) -> FolderLayout:
    """Find the class folders of `root`.

    `root` holds train/ with a folder a class (and test/, val/ with the same), or the class folders themselves.
    A class may itself be called "train": then that folder holds images, not folders.

    Raises:
        InputError: Fewer than two classes, or a part has a class that training has not.
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
        listed = ", ".join(shown(folder.name) for folder in validations)
        raise InputError(f"dataset.path={shown(root)}: expected one validation folder, received {listed}; keep one")

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
    """Yield the image files in a folder and its subfolders, known by their suffix, in a fixed order.

    Hidden files and other files are passed over; links are followed, but not round in circles.

    Raises:
        InputError: A folder cannot be listed.
    """
    yield from _walk(folder, frozenset())


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    with reading(folder):
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
    with reading(folder):
        here = folder.resolve()
        entries = [
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".")
            and entry.is_dir()
            and not here.is_relative_to(entry.resolve())  # a link back up is no class
        ]
    # One spelling for accented letters, which macOS stores apart: the same data, the same classes.
    return sorted((unicodedata.normalize("NFC", shown(entry.name)), entry) for entry in entries)


def _class_names(root: Path, folders: list[tuple[str, Path]]) -> tuple[str, ...]:
    names = tuple(sorted({name for name, _ in folders}))
    if len(names) < 2:
        raise InputError(
            f"dataset.path={shown(root)}: expected two or more class folders, received {', '.join(names) or 'none'}; "
            "put the images of each class into a folder of its own"
        )
    return names


def _numbered(names: tuple[str, ...], folders: list[tuple[str, Path]], part: Path) -> ClassFolders:
    unknown = [name for name, _ in folders if name not in names]
    if unknown or not folders:
        raise InputError(
            f"{shown(part)}: expected class folders of the training part, received {', '.join(unknown[:5]) or 'none'}; "
            "name them as in train/, or move the folder away"
        )
    return tuple((names.index(name), folder) for name, folder in folders)
