"""A finished run: its folder, its configuration, and what is known of its model without importing Keras."""

import copy
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tnt_exp import data
from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.config import Config, validation
from tnt_exp.config.compose import compose, load_config
from tnt_exp.config.overrides import parse_override
from tnt_exp.errors import UserError
from tnt_exp.model import weights_file
from tnt_exp.model.weights_file import SHIPPED
from tnt_exp.run_folder import is_whole_model

_SECTIONS = ("dataset", "trainer")  # what may change once a model is trained


def apply_overrides(config: Config, overrides: Sequence[str], changeable: Sequence[str] = _SECTIONS) -> Config:
    """Return the configuration with some keys changed.

    Args:
        config: Of a run.
        overrides: `dataset=...`, `dataset.KEY=...`, `trainer.KEY=...`.
        changeable: What may be changed: sections and keys; a section may be replaced by another option as a whole.

    Raises:
        UserError: An unknown key, a wrong value, or one that cannot change once the run has begun.
    """
    if not overrides:
        return config
    keys = [parse_override(text).key_or_group for text in overrides]
    for text, key in zip(overrides, keys, strict=True):
        if not any(key == name or key.startswith(f"{name}.") for name in changeable):
            raise UserError(f"{text}: expected a key that may change ({', '.join(changeable)}), received another.")
    composed, changed = compose(overrides), copy.deepcopy(config)
    for key in sorted(keys, key=lambda key: "." in key):  # whole sections first, then single values
        *path, field = key.split(".")
        part, new = changed, composed
        for name in path:
            part, new = getattr(part, name), getattr(new, name)
        setattr(part, field, getattr(new, field))
    validation.validate(changed)
    return changed


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with a model.

    Attributes:
        path: The folder, absolute.
        config: Its configuration.
        result: The content of `result.json`.
    """

    path: Path
    config: Config
    result: JsonObject

    @classmethod
    def open(cls, path: Path) -> "FinishedRun":
        """Read a run folder, or raise `UserError`: it is none, or has no result or no model, or they are damaged."""
        path = path.resolve()
        again = f"tnt-exp resume {path} writes it again from the last checkpoint."
        config = load_config(path / "config.yaml")
        model = "model.safetensors" if path.is_relative_to(SHIPPED) else "model.keras"
        for name in ("result.json", model):
            if not (path / name).is_file():
                raise UserError(f"{path}: expected the folder of a finished run, received one without {name}; {again}")
        result = read_json(path / "result.json")
        if model == "model.keras" and not is_whole_model(path / model):
            raise UserError(f"{path / model}: expected a model, received a damaged file; {again}")
        return cls(path, config, result)

    @property
    def is_shipped(self) -> bool:
        """Whether this is a model that came with the package; nothing is written to its folder."""
        return self.path.is_relative_to(SHIPPED)

    @property
    def output(self) -> Path:
        """Where evaluations, pictures and exports are written."""
        return Path("multirun", self.path.name).resolve() if self.is_shipped else self.path

    @property
    def model_file(self) -> Path:
        """The file of the chosen model."""
        return self.path / ("model.safetensors" if self.is_shipped else "model.keras")

    @property
    def mlflow_run_id(self) -> str | None:
        """The id of its MLflow run, or None if it was not tracked."""
        return self.result.get("mlflow_run_id")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits."""
        return tuple(self._model["class_names"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of its training images; the size of the model if they have no common size."""
        facts, size = data.dataset_info(self.config.dataset), self.config.model.image_size
        return facts.height or size, facts.width or size, int(self._model["network"]["channels"])

    @cached_property
    def _model(self) -> JsonObject:
        if self.is_shipped:
            return weights_file.read_header(self.model_file) or {}
        # A Keras file is a zip archive that holds the model's configuration: Keras need not be imported.
        try:
            with zipfile.ZipFile(self.model_file) as archive:
                config: JsonObject = json.loads(archive.read("config.json"))["config"]
            return {"class_names": config["class_names"], "network": config["network"]["config"]}
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
            raise UserError(
                f"{self.model_file}: expected a model saved by tnt-exp, received a file that cannot be read."
            ) from error
