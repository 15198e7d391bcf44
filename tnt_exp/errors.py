"""Errors that a user can do something about, each as one clear line."""

import difflib
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Input that cannot be used: one line that names the key, what was expected, what was received, and what to do."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = ("No space left on device", "database or disk is full")  # of the system, and of SQLite

# How TensorFlow, JAX, PyTorch and Python report it, in the name of the error or in its text.
_OUT_OF_MEMORY = (
    "MemoryError",
    "ResourceExhausted",
    "OutOfMemory",
    "RESOURCE_EXHAUSTED",
    "OOM when allocating",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't allocate memory",
)


def describe_system_error(error: BaseException) -> str | None:
    """Return one line for a full disk, a file that cannot be opened, or a lack of memory; None for other errors."""
    if isinstance(error.__cause__, OSError):
        error = error.__cause__
    if is_disk_full(error):
        return (
            f"no space left on the disk: {first_line(error)}. Free some space and repeat the command to continue, "
            "in a sweep with sweep.rerun=failed."
        )
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        name, reason = printable_name(str(error.filename)), os.strerror(error.errno)
        return f"{name}: cannot be read or written: {reason}. Correct its permissions, or choose another path."
    text = f"{type(error).__name__}: {first_line(error)}"
    if is_out_of_memory(text):
        return (
            f"out of memory on the device ({text}). Try half the trainer.batch_size, trainer.remat=true or "
            "trainer.precision=mixed_bfloat16; on a GPU, `nvidia-smi` shows who else uses its memory."
        )
    return None


def is_disk_full(error: BaseException) -> bool:
    """Return True if an error, of whatever kind, says that there is no space left."""
    is_full = isinstance(error, OSError) and error.errno in _FULL
    return is_full or any(text in str(error) for text in _FULL_TEXTS)


def is_out_of_memory(text: str) -> bool:
    """Return True if the text of an error says that memory ran out."""
    return any(words in text for words in _OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """Return the line of an error message that says what happened, at most 400 characters, or the name of the error."""
    # A database's error may begin with where it was raised, one of a compiled graph with where it was called.
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("(raised as a result of")]
    line = next((line for line in lines if is_out_of_memory(line)), lines[0] if lines else type(error).__name__).strip()
    if "error code 401" in line:  # of MLflow's client; then follows the server's page
        return "error code 401: give the right MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return line if len(line) <= 400 else f"{line[:400]} ..."


@contextmanager
def wrap_read_errors(file: Path | str) -> Iterator[None]:
    """Turn any error of a decoder on a damaged file into one UserError that names the file.

    Catches every Exception on purpose: for damaged bytes tarfile, zipfile, zlib, lzma, pickle, Pillow and NumPy raise a
    dozen unrelated kinds. Keep only the call of the decoder inside.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{printable_name(file)}: cannot be read: {os.strerror(error.errno)}") from error
        reason = " ".join(f"{type(error).__name__}: {error}"[:200].split())
        reason = re.sub(r" <_io\.\w+ object at \w+>", "", reason)  # Pillow's name of bytes in memory
        raise UserError(
            f"{printable_name(file)}: truncated, damaged or of another format "
            f"({printable_name(reason)}); fetch the file again"
        ) from error


def similar_path(path: Path) -> str:
    """Return ' Did you mean X?' for the entry of the same folder that has the most similar name, or nothing."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f" Did you mean {printable_name(path.parent / close[0])}?" if close else ""


def printable_name(name: Path | str) -> str:
    """Return a file name as text that every log can hold: bytes that are not UTF-8 become question marks."""
    return os.fsencode(name).decode("utf-8", "replace")
