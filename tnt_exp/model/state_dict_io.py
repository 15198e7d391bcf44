"""Reading and writing files of named tensors. No code in them is ever run."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tnt_exp import atomic_files
from tnt_exp.errors import UserError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]

_PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".pth.tar")


def read_state_dict(path: Path) -> dict[str, Array]:
    """Return all tensors of a .safetensors file, or of a PyTorch file (.pth, .pt, .bin, .pth.tar).

    Raises:
        UserError: The file is missing, damaged, of another kind, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a file of weights, found none.")
    if path.name.endswith(".safetensors"):
        return _read_safetensors(path)
    if path.name.endswith(_PYTORCH_SUFFIXES):
        return _read_pytorch(path)
    raise UserError(
        f"{path}: expected weights as .safetensors or {', '.join(_PYTORCH_SUFFIXES)}, received another kind of file."
    )


def _read_safetensors(path: Path) -> dict[str, Array]:
    import ml_dtypes  # noqa: F401  (gives NumPy a bfloat16)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, Array] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a .safetensors file, received a damaged one ({error}).") from error
    return tensors


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """Return the texts in the header of a .safetensors file.

    Raises:
        UserError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: expected a .safetensors file, received a damaged one ({error}).") from error


def _read_pytorch(path: Path) -> dict[str, Array]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: a PyTorch file needs PyTorch (pip install 'tnt-exp[torch]'), or convert it to .safetensors."
        ) from error
    try:
        # `weights_only` admits tensors and plain containers, and no code.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: expected tensors alone, received a damaged file or one that would run code when it is read; "
            "convert it to .safetensors where you trust it."
        ) from error
    except Exception as error:  # torch.load does not document what a damaged file raises
        raise UserError(f"{path}: expected a PyTorch file, received a damaged one ({type(error).__name__}).") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path}: expected named tensors (a state dict), received something else.")
    # Training on several GPUs puts "module." before each name.
    return {str(name).removeprefix("module."): _array(value) for name, value in content.items()}


def _array(tensor: "torch.Tensor") -> Array:
    import ml_dtypes
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype is torch.bfloat16:  # NumPy has no bfloat16 of its own
        return np.asarray(tensor.view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    return np.asarray(tensor.numpy())


def write_state_dict(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> None:
    """Write a .safetensors file with texts in its header, atomically.

    Raises:
        UserError: The name does not end in .safetensors, or the folder cannot be written to.
    """
    from safetensors.numpy import save

    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name that ends in .safetensors, received another.")
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata or {"format": "pt"})
    try:
        atomic_files.atomic_write(path, content)
    except OSError as error:
        raise UserError(f"{path}: expected a folder that can be written to ({error.strerror}).") from error
