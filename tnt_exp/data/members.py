"""The files of an archive or a folder, one at a time and never extracted."""

import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from tnt_exp.config.errors import InputError
from tnt_exp.data.reading import reading

# The largest official file has 155 MB; a member that claims more is damage, and would fill the memory.
_LARGEST = 2**29


def members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each wanted file in a folder, its subfolders or a tar archive.

    Files are known by their last name: archives differ in the folder they put in front.
    An archive is read as one stream, under gzip, bzip2, xz or no compression.

    Raises:
        InputError: Damaged, or two files of one name.
    """
    seen: set[str] = set()
    for name, content in _folder(path, wanted) if path.is_dir() else _archive(path, wanted):
        if name in seen:
            raise InputError(f"{path}: expected one file named {name}, received two; give the archive or folder of one")
        seen.add(name)
        yield name, content


def _folder(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    # The folder itself or, one below, the folder that the official archive unpacks to.
    folders = [path, *sorted(entry for entry in path.iterdir() if entry.is_dir())]
    for folder in folders:
        for name in sorted(wanted):
            file = folder / name
            if file.is_file():
                with reading(file):
                    content = file.read_bytes()
                yield name, content


def _archive(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    with reading(path):
        archive = tarfile.open(path, "r|*")  # noqa: SIM115 (closed below: a damaged one raises on closing too)
    try:
        while True:
            with reading(path):
                member = archive.next()
                if member is None:
                    return
                name = PurePosixPath(member.name).name
                if not member.isreg() or name not in wanted:
                    continue
                content = _content(archive, member)
            yield name, content
    finally:
        with reading(path):
            archive.close()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST:
        raise ValueError(f"{member.name} claims {member.size} bytes")
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is not a plain file")
    content = file.read()
    if len(content) != member.size:
        raise EOFError(f"{member.name} has {len(content)} bytes of {member.size}")
    return content
