"""Pickles of plain data and byte arrays, read without running anything in them.

The Python version of CIFAR is a pickle, and a pickle is a program. The only names that it may call here are the
replacements below: they keep what the pickle says about an array, and do nothing. NumPy never sees the pickle's state;
the array is made afterwards, from checked bytes.
"""

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np

Unpickled = Any  # a value from a file, whose type is whatever the file says


class Pixels:
    """Replaces `numpy.ndarray`, and the functions that rebuild one."""

    shape: Unpickled = None
    dtype: Unpickled = None
    fortran: Unpickled = False
    content: Unpickled = b""

    def __init__(self, *arguments: Unpickled) -> None:
        """Protocols 0 to 4 give (type, shape, code) here, and the rest to `__setstate__`."""

    def __setstate__(self, state: Unpickled) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def array(self) -> np.ndarray:
        """Return the array, uint8; raises ValueError or TypeError if it is another one, or bytes and shape disagree."""
        if not isinstance(self.dtype, _DType) or self.dtype.name not in ("u1", "uint8"):
            raise ValueError("an array of another type than uint8")
        if not isinstance(self.content, bytes | bytearray) or math.prod(self.shape) != len(self.content):
            raise ValueError(f"an array of shape {self.shape} with {len(self.content)} bytes")
        return np.frombuffer(self.content, np.uint8).reshape(self.shape, order="F" if self.fortran else "C")


class _Buffer(Pixels):
    """Replaces `_frombuffer`, which rebuilds an array under protocol 5."""

    def __init__(self, content: Unpickled, dtype: Unpickled, shape: Unpickled, order: Unpickled, *_: Unpickled) -> None:
        self.content, self.dtype, self.shape, self.fortran = content, dtype, shape, order == "F"


class _DType:
    """Replaces `numpy.dtype`."""

    def __init__(self, name: Unpickled, *_: Unpickled) -> None:
        self.name = name.decode() if isinstance(name, bytes) else name

    def __setstate__(self, state: Unpickled) -> None:
        """Ignore byte order and the like, which single bytes do not have."""


class _Encode:
    """Replaces `_codecs.encode`, with which Python 3 writes bytes under protocols 0 to 2."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes in {encoding}")
        return text.encode("latin1")

    def __setstate__(self, state: Unpickled) -> None:
        """Never called; without it, a pickle could set attributes of this class."""


_ALLOWED = {
    ("numpy", "ndarray"): Pixels,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): Pixels,
    ("numpy._core.multiarray", "_reconstruct"): Pixels,
    ("numpy.core.numeric", "_frombuffer"): _Buffer,
    ("numpy._core.numeric", "_frombuffer"): _Buffer,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Unpickled:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused: the pickle asks for {module}.{name}") from None


def _check_memory(content: bytes) -> None:
    # The unpickler keeps its memo in an array: one damaged index would fill all the memory there is.
    # A pickler numbers its memo in order, so no index is larger than the number of instructions.
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        if instruction.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > count:
            raise pickle.UnpicklingError(f"memo index {argument} at instruction {count}")


def safe_unpickle(content: bytes) -> dict[str, Unpickled]:
    """Return the dictionary in a pickle, keys as text, arrays as `Pixels`; another pickle raises nearly any error."""
    _check_memory(content)
    value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(value, dict):
        raise ValueError(f"expected a dictionary, received {type(value).__name__}")
    return {key.decode() if isinstance(key, bytes) else str(key): item for key, item in value.items()}
