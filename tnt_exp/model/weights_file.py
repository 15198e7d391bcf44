"""Files of weights to start from: where they are, and what is in their headers.

Imports no Keras: a command reads the names of the classes, or refuses a path, before anything slow is imported.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from tnt_exp.atomic_files import JsonObject
from tnt_exp.errors import UserError
from tnt_exp.model import state_dict_io
from tnt_exp.model.state_dict_io import Array

SHIPPED = Path(__file__).parents[1] / "weights"  # a folder per model, with the files of a finished run
_HEADER = "tnt_exp"  # the key in the metadata of a .safetensors file


def find_weights(reference: str) -> Path:
    """Return the file that `model.weights` names.

    Args:
        reference: The name of a model that ships with the package, a run folder, or a file: .safetensors, .keras, or
            one of PyTorch.

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


def shipped_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/model.safetensors"))


def shipped_model(name: str) -> Path | None:
    """Return the folder of a model that ships with the package, or None if there is no such model."""
    return SHIPPED / name if name in shipped_models() else None


def write_model(path: Path, tensors: Mapping[str, Array], header: JsonObject) -> None:
    """Write a model as one .safetensors file: its weights, and in the header what it takes to build it.

    Raises:
        UserError: The name does not end in .safetensors, or the folder cannot be written to.
    """
    state_dict_io.write_state_dict(path, tensors, {_HEADER: json.dumps(header)})


def read_header(path: Path) -> JsonObject | None:
    """Return the arguments `preprocess`, `network` and `class_names`; None if the file is not of `write_model`.

    Raises:
        UserError: The file is damaged.
    """
    text = state_dict_io.read_safetensors_metadata(path).get(_HEADER)
    if text is None:
        return None
    try:
        header: JsonObject = json.loads(text)
        return {key: header[key] for key in ("preprocess", "network", "class_names")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a damaged header.") from error
