"""The run folder: the truth about a run, complete without MLflow."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from tnt_exp.config.compose import load_config
from tnt_exp.config.schema import Config


class RunFolder:
    """Files of one run, each written beside and renamed into place.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        (self.path / "plots").mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

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

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """`metrics.csv` anew, as a run that goes on from a checkpoint knows it."""
        text = io.StringIO(newline="")
        if rows:
            writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        self._write("metrics.csv", text.getvalue())

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """One row of `metrics.csv`; every row has the columns of the first."""
        with (self.path / "metrics.csv").open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            stream.flush()

    def read_result(self) -> dict[str, Any]:
        """What `result.json` says; empty while the run has not ended."""
        return self._read_json("result.json")

    def remove_result(self) -> None:
        """The run is under way again: no `result.json` of before may be taken for its end."""
        (self.path / "result.json").unlink(missing_ok=True)

    def read_tracking(self) -> dict[str, Any]:
        """Which run of which store is told of this run; empty where none is."""
        return self._read_json("mlflow.json")

    def write_tracking(self, uri: str, run_id: str) -> None:
        """`mlflow.json`."""
        self._write("mlflow.json", json.dumps({"uri": uri, "run_id": run_id}, indent=2) + "\n")

    def read_config(self) -> Config | None:
        """What `config.yaml` says; None in a new folder."""
        file = self.path / "config.yaml"
        return load_config(file) if file.exists() else None

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return {}
        return content

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

    def walk(section: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in section.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    return dict(walk(plain(config), ""))
