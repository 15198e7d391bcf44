"""Which folders of an image folder are splits and classes, and which files in them are images."""

import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tnt_exp.errors import UserError, printable_name, wrap_read_errors

_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
_HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))

# Names of splits, in any case.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}

# What file servers and operating systems put among photos; besides names that begin with a dot, @ or #.
_SYSTEM_NAMES = frozenset(
    ("__macosx", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini")
)

ClassFolders = tuple[tuple[int, Path], ...]  # class number and one of its folders


@dataclass(frozen=True)
class FolderLayout:
    """The classes, sorted by name, and the folders of each split; None: there is no such split."""

    class_names: tuple[str, ...]
    train: ClassFolders
    validation: ClassFolders | None = None
    test: ClassFolders | None = None
    unread: tuple[str, ...] = ()  # folders beside the splits, which are not read


@dataclass
class Listing:
    """The image files of a folder, and what was left out."""

    files: list[Path] = field(default_factory=list)  # in a fixed order
    left_out: Counter[str] = field(default_factory=Counter)  # number of other files by suffix


def folder_layout(root: Path, *, classes: int = 2) -> FolderLayout:
    """Find the class folders of `root`.

    `root` holds train/ with one folder per class (and test/, val/ with the same), or the class folders themselves. A
    class may itself be called "train": then that folder holds images, not folders. Raises `UserError` if there are
    fewer than `classes` classes, or a split has a class that training does not have.
    """
    top = _subfolders(root)
    splits = _find_splits(root, top)
    nested = {name: folder for name, folder in splits.items() if _subfolders(folder)}
    if "train" not in nested:
        _refuse_half_a_layout(root, top, splits, nested)
        names = _class_names(root, top, classes)
        return FolderLayout(names, _numbered(names, top, root))

    train = nested["train"]
    names = _class_names(train, _subfolders(train), classes)

    def split(name: str) -> ClassFolders | None:
        return _numbered(names, _subfolders(splits[name]), splits[name]) if name in splits else None

    return FolderLayout(
        class_names=names,
        train=_numbered(names, _subfolders(train), train),
        validation=split("validation"),
        test=split("test"),
        unread=tuple(sorted(name for name, folder in top if folder not in splits.values())),
    )


def list_images(folder: Path) -> Listing:
    """List the image files in a folder and its subfolders, recognised by their suffix.

    Hidden files, and those of file servers and operating systems, are ignored; links are followed, but never in
    circles or to a folder above, whose images are of other classes. Raises `UserError` if a folder cannot be listed.
    """
    found = Listing()
    above = [parent.stat() for path in (folder.absolute(), folder.resolve()) for parent in path.parents]
    for file in _walk(folder, frozenset((status.st_dev, status.st_ino) for status in above)):
        if file.suffix.lower() in readable_suffixes():
            found.files.append(file)
        else:
            found.left_out[file.suffix.lower() or "without suffix"] += 1
    return found


def describe_left_out(left_out: Counter[str]) -> str:
    """Return `5 .heic, 2 .txt`, with what would read them."""
    listed = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
    hint = "; pip install 'tnt-exp[heic]' reads .heic" if _HEIF_SUFFIXES & set(left_out) else ""
    return listed + hint


@cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes of images that can be decoded here."""
    from PIL import features  # slow to import

    found = set(_SUFFIXES)
    if features.check("avif"):
        found.add(".avif")
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return frozenset(found)
    pillow_heif.register_heif_opener()
    return frozenset(found | _HEIF_SUFFIXES)


def _is_ignored(path: Path) -> bool:
    name = path.name
    return name.startswith((".", "@", "#")) or name.lower() in _SYSTEM_NAMES


def _find_splits(root: Path, top: list[tuple[str, Path]]) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    for name, folder in top:
        for split, spellings in _SPLITS.items():
            if name.lower() not in spellings:
                continue
            if split in splits:
                raise UserError(
                    f"dataset.path={printable_name(root)}: expected one {split} folder, "
                    f"received {printable_name(splits[split].name)}, {printable_name(folder.name)}; keep one"
                )
            splits[split] = folder
    return splits


def _refuse_half_a_layout(
    root: Path, top: list[tuple[str, Path]], splits: dict[str, Path], nested: dict[str, Path]
) -> None:
    """Raise UserError if folders are named as splits, but there are no class folders to train on."""
    given = f"dataset.path={printable_name(root)}"
    listed = ", ".join(f"{printable_name(folder.name)}/" for folder in splits.values())
    if nested:
        raise UserError(
            f"{given}: expected train/ with one folder per class beside {listed}, received none; "
            "name the folder of training images train"
        )
    if len(splits) > 1 and len(splits) == len(top):
        raise UserError(
            f"{given}: expected one folder per class in {listed}, received images without class folders; "
            "move the images of each class into a folder of its own, as in train/cat/1.jpg"
        )


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    with wrap_read_errors(folder):
        status = folder.stat()
        entries = sorted(entry for entry in folder.iterdir() if not _is_ignored(entry))
        below = {entry for entry in entries if entry.is_dir()}
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        if entry in below:
            yield from _walk(entry, above | {here})
        else:
            yield entry


def _subfolders(folder: Path) -> list[tuple[str, Path]]:
    with wrap_read_errors(folder):
        here = folder.resolve()
        entries = [
            entry
            for entry in folder.iterdir()
            if not _is_ignored(entry)
            and entry.is_dir()
            and not here.is_relative_to(entry.resolve())  # a link to a parent folder is not a class
        ]
    # One spelling of accented letters (macOS stores them decomposed): the same data, the same classes.
    return sorted((unicodedata.normalize("NFC", printable_name(entry.name)), entry) for entry in entries)


def _class_names(root: Path, folders: list[tuple[str, Path]], classes: int) -> tuple[str, ...]:
    names = tuple(sorted({name for name, _ in folders}))
    if len(names) < classes:
        wanted = "two or more class folders" if classes == 2 else "class folders"
        raise UserError(
            f"dataset.path={printable_name(root)}: expected {wanted}, "
            f"received {', '.join(names) or 'none'}; put the images of each class into a folder of its own"
        )
    return names


def _numbered(names: tuple[str, ...], folders: list[tuple[str, Path]], split: Path) -> ClassFolders:
    unknown = [name for name, _ in folders if name not in names]
    if unknown or not folders:
        raise UserError(
            f"{printable_name(split)}: expected class folders of the training part, "
            f"received {', '.join(unknown[:5]) or 'none'}; name them as in train/, or move the folder away"
        )
    return tuple((names.index(name), folder) for name, folder in folders)
