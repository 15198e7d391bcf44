"""Files that may be damaged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tnt_exp.config.errors import InputError


@contextmanager
def reading(file: Path | str) -> Iterator[None]:
    """Turn whatever a decoder makes of a damaged file into one InputError that names the file.

    Catches every Exception on purpose: from damaged bytes tarfile, zipfile, zlib, lzma, pickle and
    NumPy raise a dozen unrelated kinds. Keep only the decoder's call inside.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{file}: truncated, damaged or of another format ({reason}); fetch the file again") from error
