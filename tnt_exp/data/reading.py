"""Files that may be damaged."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tnt_exp.config.errors import InputError


@contextmanager
def reading(file: Path | str) -> Iterator[None]:
    """Turn whatever a decoder makes of a damaged file into one InputError that names the file.

    Catches every Exception on purpose: from damaged bytes tarfile, zipfile, zlib, lzma, pickle,
    Pillow and NumPy raise a dozen unrelated kinds. Keep only the decoder's call inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{shown(file)}: cannot be read: {os.strerror(error.errno)}") from error
        reason = " ".join(f"{type(error).__name__}: {error}"[:200].split())
        raise InputError(
            f"{shown(file)}: truncated, damaged or of another format ({shown(reason)}); fetch the file again"
        ) from error


def shown(name: Path | str) -> str:
    """A file name as text that every log can hold: bytes that are no UTF-8 become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")
