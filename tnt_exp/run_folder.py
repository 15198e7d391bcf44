"""The run folder: the authoritative record of a run, complete without MLflow."""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from tnt_exp.atomic_files import (
    JsonObject,
    acquire_lock,
    atomic_path,
    atomic_write,
    atomic_write_json,
    lock_owner,
    name_file_in_errors,
    read_json,
    release_lock,
    remove_path,
    warn_once,
)
from tnt_exp.config.compose import load_config
from tnt_exp.config.schema import Config
from tnt_exp.data.dataset import Dataset
from tnt_exp.errors import UserError

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier


CONFUSION_MATRIX = "confusion_matrix.csv"
# Files and folders of a run that are logged to MLflow, too.
ARTIFACTS = [
    "config.yaml",
    "overrides.yaml",
    "dataset.json",
    "result.json",
    "metrics.csv",
    CONFUSION_MATRIX,
    "train.log",
    "plots",
    "provenance",
    "profile",
]
SYSTEM_METRICS = "system_metrics.jsonl"  # one line per interval: time in milliseconds, step, values
TIME_COLUMNS = ("seconds", "time", "train/images_per_second", "train/waiting")  # differ when an epoch is repeated


class RunFolder:
    """The files of one run, each written under a temporary name and renamed into place; `path` is absolute.

    The folder is created, unless it is only read.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path).resolve()
        self.checkpoints, self.plots = self.path / "checkpoints", self.path / "plots"
        self.model, self.log = self.path / "model.keras", self.path / "train.log"
        if create:
            self.plots.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def held(self, wait: float = 0.0) -> Iterator[None]:
        """Make this the only process that uses the folder, after at most `wait` seconds, or raise `UserError`."""
        file = self.path / ".lock"
        found = acquire_lock(file)
        if found is None and wait:
            print(f"another process runs {self.path}: waiting until it ends", flush=True)
            found = acquire_lock(file, wait)
        if found is None:
            raise UserError(
                f"{self.path}: expected a run folder that no process uses, received one that {lock_owner(file)} uses. "
                "Wait until it ends, or choose another run.name."
            )
        try:
            yield
        finally:
            release_lock(found)

    def remove(self, before: Iterable[Path] = ()) -> None:
        """Remove the folder, and the folders above it that are empty then (`multirun/runs`).

        `before` is what was in it when the run began: files of others stay, and with them the folder.
        """
        kept = {*before}
        if kept - {self.path / ".lock", self.log, self.plots} or any(self.plots.iterdir()):
            for path in {*self.path.iterdir()} - kept:
                remove_path(path)
            return
        remove_path(self.path)
        for parent in list(self.path.parents)[:2]:
            if parent.name not in ("runs", "sweeps", "multirun") or any(parent.iterdir()):
                break
            parent.rmdir()

    def write_config(self, config: Config, overrides: Sequence[str] | None) -> None:
        """Write `config.yaml` (every value, reloadable) and `overrides.yaml` (the overrides of the command line)."""
        atomic_write(self.path / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
        if overrides is not None:
            atomic_write(self.path / "overrides.yaml", yaml.safe_dump(list(overrides)))

    def write_result(self, result: JsonObject) -> None:
        """Write `result.json`."""
        atomic_write_json(self.path / "result.json", result)

    def write_metrics(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write `metrics.csv` anew, as a resumed run knows it."""
        text = io.StringIO(newline="")
        if rows:
            writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        atomic_write(self.path / "metrics.csv", text.getvalue())

    def append_metrics(self, row: Mapping[str, float]) -> None:
        """Append one row to `metrics.csv`; every row has the columns of the first."""
        file = self.path / "metrics.csv"
        with name_file_in_errors(file), file.open("a", newline="") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            if stream.tell() == 0:
                writer.writeheader()
            writer.writerow(row)

    def read_result(self) -> JsonObject:
        """Return the content of `result.json`; empty while the run has not ended."""
        return self._read("result.json")

    def remove_result(self) -> None:
        """Remove an earlier `result.json`: the run is in progress again."""
        (self.path / "result.json").unlink(missing_ok=True)

    def read_config(self) -> Config | None:
        """Return the configuration in `config.yaml`; None in a new folder, which has no checkpoints and no result."""
        file = self.path / "config.yaml"
        new = not file.exists() and not self.read_result() and not any(self.checkpoints.glob("step-*"))
        return None if new else load_config(file)

    def write_dataset(self, dataset: Dataset, source: str) -> None:
        """Write `dataset.json`: name, source, digest, classes, sizes and, for images in files, those of each split."""
        atomic_write_json(
            self.path / "dataset.json",
            {
                "name": dataset.name,
                "source": source,
                "digest": dataset.digest,
                "shape": list(dataset.image_shape),
                "class_names": list(dataset.class_names),
                "images": {name: len(split) for name, split in dataset.splits.items()},
                "listed": dataset.listed,
                "files": {
                    name: [[*record, int(label)] for record, label in zip(split.files, split.labels, strict=True)]
                    for name, split in dataset.splits.items()
                    if split.files is not None
                },
            },
        )

    def read_dataset(self) -> JsonObject:
        """Return the content of `dataset.json`; empty for a run of an older version."""
        return self._read("dataset.json")

    def save_model(self, classifier: "Classifier") -> None:
        """Write `model.keras`."""
        with atomic_path(self.model) as part:
            classifier.save(part)

    def _read(self, name: str) -> JsonObject:
        return read_json(self.path / name, skip=True) or {}


def is_whole_model(file: Path) -> bool:
    """Return whether a Keras file, a zip archive, is there and matches its checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # damaged bytes raise many kinds
        return False


def plain(config: Config) -> JsonObject:
    """Return the configuration as plain YAML values."""

    def section(fields: list[tuple[str, Any]]) -> JsonObject:
        return {key: value.name if isinstance(value, Enum) else value for key, value in fields}

    return asdict(config, dict_factory=section)


def flat(config: Config) -> JsonObject:
    """Return the configuration with dotted keys, `model.depth`."""
    return flatten(plain(config))


_DICTIONARIES = ("trainer.class_weights",)  # values that are dictionaries themselves


def flatten(values: JsonObject, prefix: str = "") -> JsonObject:
    """Return nested values with dotted keys."""
    found: JsonObject = {}
    for key, value in values.items():
        if isinstance(value, dict) and prefix + key not in _DICTIONARIES:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


@dataclass(frozen=True)
class MetricsFile:
    """The content of `metrics.csv`."""

    epoch: int  # epochs completed
    rows: list[dict[str, str]]  # one per epoch

    def value(self, metric: str) -> float | None:
        """Return the metric after the last epoch, or None."""
        return parse_number(self.rows[-1].get(metric)) if self.rows else None

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Return (epoch, value) of the epochs that have the metric."""
        pairs = ((float(row["epoch"]), parse_number(row.get(metric))) for row in self.rows)
        return [(epoch, value) for epoch, value in pairs if value is not None]


def read_metrics(folder: Path, *, last: bool = False) -> MetricsFile:
    """Read `metrics.csv`, without a line that is still being written; a damaged file is skipped with a warning.

    With `last` only the last row is parsed, unless some of its cells are empty.
    """
    file = folder / "metrics.csv"
    try:
        text = file.read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()
        if last and lines and "" not in lines[-1].split(","):
            lines = [lines[0], *lines[1:][-1:]]
        rows = list(csv.DictReader(lines))
        _ = [parse_number(cell) for row in rows for cell in row.values()]  # raises an error for a damaged cell
        return MetricsFile(int(float(rows[-1]["epoch"])) if rows else 0, rows)
    except FileNotFoundError:
        return MetricsFile(0, [])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        warn_once(f"{file}: expected a table of numbers, received a damaged file ({error}): skipped.")
        return MetricsFile(0, [])


def write_confusion_matrix(folder: Path, confusion: np.ndarray, class_names: Sequence[str]) -> None:
    """Write `confusion_matrix.csv`: counts of images, one row per true class, one column per predicted class."""
    text = io.StringIO(newline="")
    rows = [[name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=True)]
    csv.writer(text, lineterminator="\n").writerows([["true class", *class_names], *rows])
    # The name of a folder need not be valid UTF-8.
    atomic_write(folder / CONFUSION_MATRIX, text.getvalue().encode(errors="surrogateescape"))


def read_confusion_matrix(folder: Path) -> tuple[list[str], np.ndarray] | None:
    """Return class names and counts of `confusion_matrix.csv`, int64 (classes, classes); None: missing or damaged."""
    file = folder / CONFUSION_MATRIX
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        (_, first, *others), *rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1]))  # whole lines
        names = [first, *others]
        return names, np.array([row[1:] for row in rows], np.int64).reshape(len(names), len(names))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, csv.Error) as error:
        warn_once(f"{file}: expected counts of images per class, received a damaged file ({error}): skipped.")
        return None


def parse_number(text: str | None) -> float | None:
    """Return the number in a CSV cell, or None."""
    return float(text) if text else None


def first_difference(run: Path, other: Path) -> str | None:
    """Return the first difference of two runs in curves, final metrics, weights and optimizer; None: equal to the bit.

    The values in brackets are those of `other`.
    """
    curve, other_curve = _curve(run), _curve(other)
    for row, there in zip(curve, other_curve, strict=False):
        for name in dict.fromkeys([*row, *there]):
            if row.get(name) != there.get(name):
                return f"epoch {there.get('epoch')}: {name} {row.get(name)} (there: {there.get(name)})"
    if len(curve) != len(other_curve):
        return f"{len(curve)} epochs (there: {len(other_curve)})"
    metrics, other_metrics = (_metrics(folder) for folder in (run, other))
    for name in dict.fromkeys([*metrics, *other_metrics]):
        if metrics.get(name) != other_metrics.get(name):
            return f"{name} {metrics.get(name)} (there: {other_metrics.get(name)})"
    return _state_difference(run, other)


def _curve(folder: Path) -> list[dict[str, str]]:
    rows = read_metrics(folder).rows
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in rows]


def _metrics(folder: Path) -> dict[str, float]:
    found = read_json(folder / "result.json") or {}
    return {name: value for name, value in found.get("metrics", {}).items() if name not in TIME_COLUMNS}


def _state_difference(run: Path, other: Path) -> str | None:
    """Compare the last checkpoints: weights, optimizer, random state, weights of the chosen epoch."""
    from safetensors.numpy import load_file

    last = [max(folder.glob("checkpoints/step-*.safetensors"), default=None) for folder in (run, other)]
    if last[0] is None or last[1] is None:
        return f"checkpoint {last[0]} (there: {last[1]})"
    if last[0].name != last[1].name:
        return f"last checkpoint {last[0].stem} (there: {last[1].stem})"
    arrays, others = load_file(last[0]), load_file(last[1])
    for name in dict.fromkeys([*arrays, *others]):
        if name not in arrays or name not in others or arrays[name].tobytes() != others[name].tobytes():
            return f"{last[0].stem}: {name}"
    return None
