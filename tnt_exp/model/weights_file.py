"""Files of weights: where they are, their tensors and headers, written and read. No code in them is ever run.

Imports no Keras: a command reads the names of the classes, or refuses a path, before anything slow is imported.
"""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from tnt_exp import atomic_files
from tnt_exp.atomic_files import JsonObject
from tnt_exp.config.model import ModelConfig
from tnt_exp.errors import UserError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.generic]

SHIPPED = Path(__file__).parents[1] / "weights"  # a folder per model, with the files of a finished run
HEADER = "tnt_exp"  # the key in the metadata of a .safetensors file under which is what it takes to build the model
_SIZES = ("depth", "embed_dim", "inner_dim")  # no weights fit a network in which one of them differs
_PYTORCH_SUFFIXES = (".pth", ".pt", ".bin", ".pth.tar")


def find_weights(reference: str) -> Path:
    """Return the file that `model.weights` names: a model that ships with the package, a run folder, or a file.

    Raises:
        UserError: There is no such file.
    """
    path = Path(reference).expanduser()
    if not path.exists() and (folder := shipped_model(reference)):
        path = folder / "model.safetensors"
    elif path.is_dir():
        path = path / "model.keras"
    if not path.is_file():
        raise UserError(
            f"model.weights={reference}: expected {', '.join(shipped_models())}, the folder of a finished run, or a "
            f"file (.safetensors, .keras, .pth), found none at {path}."
        )
    return path


def check_weights(config: ModelConfig) -> None:
    """Raise `UserError` if `config.weights` is no file (see `find_weights`), or one of a network of other sizes."""
    path = find_weights(str(config.weights))
    network = (read_header(path) or {}).get("network") if path.suffix == ".safetensors" else None
    sizes = network if isinstance(network, dict) else {}
    if other := [key for key in _SIZES if sizes.get(key, getattr(config, key)) != getattr(config, key)]:
        expected = ", ".join(f"model.{key}={sizes[key]}" for key in other)
        received = ", ".join(str(getattr(config, key)) for key in other)
        raise UserError(
            f"model.weights={config.weights}: expected {expected}, as in the network of these weights, "
            f"received {received}; give that, or model.weights=null to train from scratch."
        )


def shipped_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/model.safetensors"))


def shipped_model(name: str) -> Path | None:
    """Return the folder of a model that ships with the package, or None if there is no such model."""
    return SHIPPED / name if name in shipped_models() else None


def read_header(path: Path) -> JsonObject | None:
    """Return the arguments `preprocess`, `network` and `class_names`; None if the file has weights alone.

    Raises:
        UserError: The file is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(HEADER)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: expected a .safetensors file, received a damaged one ({error}).") from error
    if text is None:
        return None
    try:
        header: JsonObject = json.loads(text)
        return {key: header[key] for key in ("preprocess", "network", "class_names")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a damaged header.") from error


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

    try:
        tensors: dict[str, Array] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a .safetensors file, received a damaged one ({error}).") from error
    return tensors


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
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a name that ends in .safetensors, received another.")
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata or {"format": "pt"})
    try:
        atomic_files.atomic_write(path, content)
    except OSError as error:
        raise UserError(f"{path}: expected a folder that can be written to ({error.strerror}).") from error
