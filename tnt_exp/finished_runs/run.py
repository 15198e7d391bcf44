"""A finished run: its folder, its configuration, and what is known of its model without importing Keras."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tnt_exp import data
from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.config import Config, validation
from tnt_exp.config.compose import compose, load_config
from tnt_exp.config.overrides import parse_override
from tnt_exp.errors import UserError
from tnt_exp.run_folder import is_whole_model

_SECTIONS = ("dataset", "trainer")  # what may change once a model is trained


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Return the configuration with `dataset=...`, `dataset.KEY=...` and `trainer.KEY=...` changed.

    Raises:
        UserError: An unknown key, a wrong value, or a section that cannot change once the model is trained.
    """
    if not overrides:
        return config
    keys = [parse_override(text).key_or_group for text in overrides]
    for text, key in zip(overrides, keys, strict=True):
        if key.partition(".")[0] not in _SECTIONS:
            raise UserError(f"{text}: expected dataset=..., dataset.KEY=... or trainer.KEY=... for a finished run.")
    composed = compose(overrides)
    changed = replace(config)
    for key in sorted(keys, key=lambda key: "." in key):  # whole sections first, then single values
        section, _, field = key.partition(".")
        whole = getattr(composed, section)
        new = replace(getattr(changed, section), **{field: getattr(whole, field)}) if field else whole
        setattr(changed, section, new)
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
        for name in ("result.json", "model.keras"):
            if not (path / name).is_file():
                raise UserError(f"{path}: expected the folder of a finished run, received one without {name}; {again}")
        result = read_json(path / "result.json")
        if not is_whole_model(path / "model.keras"):
            raise UserError(f"{path / 'model.keras'}: expected a model, received a damaged file; {again}")
        return cls(path, config, result)

    @property
    def model_file(self) -> Path:
        """The file of the chosen model."""
        return self.path / "model.keras"

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
        return facts.height or size, facts.width or size, int(self._model["network"]["config"]["channels"])

    @cached_property
    def _model(self) -> JsonObject:
        # A Keras file is a zip archive that holds the model's configuration: Keras need not be imported.
        try:
            with zipfile.ZipFile(self.model_file) as archive:
                config: JsonObject = json.loads(archive.read("config.json"))["config"]
            return {key: config[key] for key in ("class_names", "network")}
        except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
            raise UserError(
                f"{self.model_file}: expected a model saved by tnt-exp, received a file that cannot be read."
            ) from error
