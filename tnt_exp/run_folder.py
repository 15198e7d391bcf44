"""The run folder: the truth about a run, complete without MLflow."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from tnt_exp.config.schema import Config


class RunFolder:
    """Files of one run, each written beside and renamed into place.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        (self.path / "plots").mkdir(parents=True, exist_ok=True)
        self._columns: list[str] | None = None

    @property
    def model(self) -> Path:
        """The chosen model, a Keras file."""
        return self.path / "model.keras"

    @property
    def plots(self) -> Path:
        """Folder of pictures."""
        return self.path / "plots"

    @property
    def log(self) -> Path:
        """What the run printed, with time stamps."""
        return self.path / "train.log"

    def write_config(self, config: Config, overrides: Sequence[str]) -> None:
        """`config.yaml` (every value, reloadable) and `overrides.yaml` (what the command line changed)."""
        self._write("config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
        self._write("overrides.yaml", yaml.safe_dump(list(overrides)))

    def write_result(self, result: Mapping[str, Any]) -> None:
        """`result.json`."""
        self._write("result.json", json.dumps(result, indent=2) + "\n")

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """One row of `metrics.csv`; every row has the columns of the first."""
        file = self.path / "metrics.csv"
        new = self._columns is None
        self._columns = self._columns or list(row)
        with file.open("w" if new else "a", newline="") as stream:
            writer = csv.DictWriter(stream, self._columns, restval="", extrasaction="raise")
            if new:
                writer.writeheader()
            writer.writerow(dict(row))

    def save_model(self, classifier: Any) -> None:
        """`model.keras`."""
        beside = self.path / ".part.keras"
        classifier.save(beside)
        beside.replace(self.model)

    def _write(self, name: str, text: str) -> None:
        target = self.path / name
        beside = target.with_name(f".{name}.part")
        with beside.open("w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)


def plain(config: Config) -> dict[str, Any]:
    """The configuration as plain YAML values."""

    def value(item: Any) -> Any:
        if isinstance(item, Enum):
            return item.name
        if isinstance(item, dict):
            return {key: value(inner) for key, inner in item.items()}
        return item

    result: dict[str, Any] = value(asdict(config))
    return result


def flat(config: Config) -> dict[str, Any]:
    """The configuration as dotted keys, `model.depth`."""
    result: dict[str, Any] = {}
    for name, section in plain(config).items():
        if isinstance(section, dict):
            result |= {f"{name}.{key}": item for key, item in section.items()}
        else:
            result[name] = section
    return result
