"""What a machine runs out of, in one line each."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# How TensorFlow, JAX, PyTorch and Python say it, in the name of the error or in its text.
_OUT_OF_MEMORY = (
    "MemoryError",
    "ResourceExhausted",
    "OutOfMemory",
    "RESOURCE_EXHAUSTED",
    "OOM when allocating",
    "can't allocate memory",
)


def explain(error: BaseException) -> str | None:
    """The one line that a full disk, a folder that cannot be written or a lack of memory comes down to; None: neither.

    Args:
        error: Or its cause, where that is the operating system's.
    """
    if isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, OSError) and (error.errno in _FULL or "No space left on device" in str(error)):
        return f"no room on the disk: {_first_line(error)}. Make room and repeat the command: it goes on from there."
    if isinstance(error, OSError) and error.errno in _REFUSED:
        return f"cannot be written: {_first_line(error)}. Choose another folder, or mend its permissions."
    said = f"{type(error).__name__}: {_first_line(error)}"
    if out_of_memory(said):
        return (
            f"out of memory on the device ({said}). Try a smaller trainer.batch_size, trainer.remat=true or "
            "trainer.precision=mixed_bfloat16."
        )
    return None


def out_of_memory(text: str) -> bool:
    """Whether an error says that memory ran out."""
    return any(words in text for words in _OUT_OF_MEMORY)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    # An error of a compiled graph begins with where it was called, and says what happened further down.
    return next((line for line in lines if out_of_memory(line)), lines[0] if lines else type(error).__name__).strip()
