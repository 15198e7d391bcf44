"""The files of an archive or a folder, read one at a time and never extracted."""

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Collection, Iterator
from io import BufferedIOBase
from pathlib import Path, PurePosixPath

from tnt_exp.errors import UserError, wrap_read_errors

# The largest official file has 155 MB; a member that claims far more is damaged, and would fill the memory.
LARGEST = 2**29


def find_files(folder: Path, names: Collection[str]) -> dict[str, Path]:
    """Return those of `names` that are files in a folder or, if it has none of them, in its subfolders.

    Raises `UserError` if the folder cannot be listed, or two subfolders hold the same name.
    """
    with wrap_read_errors(folder):
        found = {name: folder / name for name in sorted(names) if (folder / name).is_file()}
        below = [] if found else sorted(entry for entry in folder.iterdir() if entry.is_dir())
        for subfolder in below:
            for name in sorted(names):
                if not (subfolder / name).is_file():
                    continue
                if name in found:
                    raise UserError(
                        f"dataset.path={folder}: expected one {name}, received {found[name]} and {subfolder / name}; "
                        "give the folder of one"
                    )
                found[name] = subfolder / name
    return found


def archive_members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each wanted file in a folder (see `find_files`) or a tar archive.

    Files are recognised by their last name, because archives differ in the folder in front of it. An archive is read
    as one stream, compressed by gzip, bzip2, xz or not at all. Raises `UserError` if it is damaged, or has two files of
    one name.
    """
    if not path.is_dir():
        yield from _archive(path, wanted)
        return
    for name, file in find_files(path, wanted).items():
        with wrap_read_errors(file):
            content = file.read_bytes()
        yield name, content


def _archive(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    with wrap_read_errors(path):
        stream = _decompressed(path)
    with stream:
        with wrap_read_errors(path):
            archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115 (the stream is what must be closed)
        while True:
            with wrap_read_errors(path):
                member = archive.next()
                if member is None:
                    while stream.read(2**20):  # to the end: checksums stand behind the last member
                        pass
                    return
                name = PurePosixPath(member.name).name
                if not member.isreg() or name not in wanted:
                    continue
                content = _content(archive, member)
            if name in seen:
                raise UserError(f"{path}: expected one {name} in it, received two; give the official archive")
            seen.add(name)
            yield name, content


def _decompressed(path: Path) -> BufferedIOBase:
    # Not tarfile's own "r|*": under gzip that never compares the checksum.
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(path)
    if start.startswith(b"BZh"):
        return bz2.open(path)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.open(path)
    return path.open("rb")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST:
        raise ValueError(f"{member.name} claims {member.size} bytes")
    file = archive.extractfile(member)
    if file is None:
        raise ValueError(f"{member.name} is no plain file")
    content = file.read()
    if len(content) != member.size:
        raise EOFError(f"{member.name} has {len(content)} bytes of {member.size}")
    return content
