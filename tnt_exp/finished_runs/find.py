"""A finished run: found by what the user typed, its configuration, and its model."""

import copy
import json
import os
import re
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp import data, provenance
from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.config import Config, validation
from tnt_exp.config.compose import compose, load_config
from tnt_exp.config.overrides import literal_overrides, parse_override
from tnt_exp.config.trainer import TrainerConfig
from tnt_exp.errors import UserError, similar_path
from tnt_exp.model import weights_file
from tnt_exp.model.weights_file import SHIPPED, shipped_model
from tnt_exp.run_folder import is_whole_model
from tnt_exp.sweeps.results import ranked, rows
from tnt_exp.sweeps.study import STUDY_FILE, SweepStudy

if TYPE_CHECKING:
    from tnt_exp.model import Classifier

_RUN_ID = re.compile(r"[0-9a-f]{32}")

_FILES_OF_A_RUN = ("config.yaml", "overrides.yaml", "result.json", "metrics.csv", "checkpoints")
RUNS = "multirun"  # the folder of runs and sweeps in a working folder
RUN_HELP = (
    "a run folder, the name of a run, an MLflow run id, runs:/ID, models:/NAME@ALIAS, best:SWEEP_FOLDER, or cifar100, "
    "the model that ships with the package"
)
_SECTIONS = ("dataset", "trainer")  # what may change once a model is trained


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with a model."""

    path: Path  # absolute
    config: Config
    result: JsonObject  # the content of `result.json`

    @classmethod
    def open(cls, path: Path) -> "FinishedRun":
        """Read a run folder, or raise `UserError`: it is none, or has no result or no model, or they are damaged."""
        path = path.resolve()
        again = f"tnt-exp resume {shlex.quote(str(path))} writes it again from the last checkpoint."
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


def find_run(reference: str | os.PathLike[str], uri: str | None = None) -> FinishedRun:
    """Return the run that a reference names (see `RUN_HELP`), or raise `UserError`: there is none, or it has no model.

    A run that MLflow knows and whose folder is not on this machine is downloaded to `multirun/fetched/ID`. `uri` is the
    tracking store; None: SQLite in the working folder.
    """
    text = os.fspath(reference)
    if text.startswith("best:"):
        return FinishedRun.open(_best(Path(text.removeprefix("best:")).expanduser()))
    path = _folder(text)
    if path.is_dir():
        if (path / STUDY_FILE).is_file():
            raise UserError(f"{text}: expected one run, received a sweep. Its best run is best:{text}")
        if not any((path / name).exists() for name in _FILES_OF_A_RUN):
            raise UserError(f"{text}: expected {RUN_HELP}, received a folder of something else.{_suggestion(text)}")
        return FinishedRun.open(path)
    if shipped := shipped_model(text):
        return FinishedRun.open(shipped)
    if text.startswith(("runs:/", "models:/")) or _RUN_ID.fullmatch(text):
        from tnt_exp.tracking.queries import resolve_run_folder

        return FinishedRun.open(resolve_run_folder(text, uri, Path("multirun/fetched")))
    raise UserError(f"{text}: expected {RUN_HELP}, found nothing of that name.{_suggestion(text)}")


def find_run_folder(reference: str, uri: str | None = None) -> Path:
    """Return the folder of a run on this machine, finished or not, or raise `UserError`: there is none.

    The reference is the folder, the `run.name`, or an MLflow id, which is looked up in the tracking store `uri` (None:
    SQLite in the working folder).
    """
    folder = _folder(reference)
    if _RUN_ID.fullmatch(reference) and not folder.exists():
        from tnt_exp.tracking.queries import tagged_run_folder

        folder = tagged_run_folder(reference, uri)
    if not folder.is_dir():
        raise UserError(
            f"{reference}: expected a run folder or an MLflow run id, found no folder {folder}.{_suggestion(reference)}"
        )
    return folder.resolve()


def find_run_folders(reference: str, uri: str | None = None) -> list[Path]:
    """Return the run folders on this machine that a reference names, or raise `UserError`: it names nothing.

    It is a folder of runs and sweeps, one of them, the name of one, the MLflow id of a run, or an MLflow experiment.
    `uri` is the tracking store, if MLflow is asked; None: SQLite in the working folder.
    """
    folder = _folder(reference)
    if folder.is_dir():
        return list(_run_folders(folder))
    if _RUN_ID.fullmatch(reference):
        return [find_run_folder(reference, uri)]
    if shipped := shipped_model(reference):
        return [shipped]
    if reference == RUNS:  # there are none yet
        return []
    if not (uri or os.environ.get("MLFLOW_TRACKING_URI") or Path("mlflow.db").is_file()):
        raise UserError(
            f"{reference}: expected a folder of runs, the name of a run or an MLflow experiment, found none."
            f"{_suggestion(reference)}"
        )
    from tnt_exp.tracking.queries import experiment_folders

    return experiment_folders(reference, uri)


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield the run folders in a folder and below: those with a `config.yaml` that a run has written."""
    for folder, below, files in os.walk(root):
        if "config.yaml" in files and not {"overrides.yaml", "result.json", "plots"}.isdisjoint([*files, *below]):
            yield Path(folder)
            below.clear()
        below[:] = [name for name in below if not name.startswith(".") and name != "mlartifacts"]  # MLflow's copies


def _folder(text: str) -> Path:
    """Return the folder that a text names: as a path, or as a run, sweep or trial of this working folder.

    A folder of photos may have the name of the run that was trained on it: the run is meant.
    """
    path = Path(text).expanduser()
    if any((path / file).is_file() for file in ("config.yaml", STUDY_FILE)):
        return path
    named = [Path(RUNS, kind, text) for kind in ("runs", "sweeps")]
    return next((folder for folder in named if folder.is_dir()), path)


def _best(folder: Path) -> Path:
    study = SweepStudy.open(folder)
    ranking = ranked(rows(study), study)
    if not ranking or ranking[0].mean is None:
        raise UserError(f"best:{folder}: expected a sweep with a finished run, received one without.")
    return Path(ranking[0].best.place)


def _suggestion(text: str) -> str:
    """Return ' Did you mean X?' for the run or sweep of the most similar name, or the newest run, or nothing."""
    similar = (similar_path(Path(RUNS, kind, Path(text).name)) for kind in ("runs", "sweeps"))
    if suggestion := next(filter(None, similar), None):
        return suggestion
    newest = max(Path(RUNS, "runs").glob("*/model.keras"), key=lambda file: file.stat().st_mtime, default=None)
    return f" The newest run here: {newest.parent}" if newest else ""


def load_model(run: str | os.PathLike[str], uri: str | None = None) -> "Classifier":
    """Return the Keras model of a finished run: `tnt_exp.load("multirun/runs/...").predict(images)`.

    Keras runs on the backend that the process has chosen (`KERAS_BACKEND`, or an earlier `import keras`), else on the
    one that trained the model.

    Args:
        run: A run folder, an MLflow run id, `runs:/ID`, `models:/NAME@ALIAS` or `best:SWEEP_FOLDER`.
        uri: Tracking store, if MLflow is asked; None: SQLite in the working folder.

    The model's `predict` takes images (N, height, width, channels), uint8 or floats in 0..255, and returns logits
    (N, classes), float32; `class_names` are in their order. Raises `UserError` if there is no such run, or its model
    cannot be read.
    """
    finished = find_run(run, uri)
    os.environ.setdefault("KERAS_BACKEND", finished.config.trainer.backend.value)  # no effect once Keras is imported
    from tnt_exp import model

    return model.load(finished.model_file)


def load_for_evaluation(finished: FinishedRun, trainer: TrainerConfig) -> "Classifier":
    """Return the model as training evaluated it: on the same backend, compiled in the same way, so with the same bits.

    `trainer` is the section of the run, possibly with another backend. Raises `UserError` if Keras already runs on
    another one.
    """
    from tnt_exp.training.device import prepare_device

    trainer = trainer.with_precision(provenance.recorded_precision(finished.path))
    device = prepare_device(replace(trainer, devices=1))  # as in training, one device evaluates
    from tnt_exp import model

    classifier = model.load(finished.model_file)
    classifier.jit_compile = device.xla
    return classifier


def apply_overrides(config: Config, overrides: Sequence[str], changeable: Sequence[str] = _SECTIONS) -> Config:
    """Return the configuration of a run with some keys changed.

    `changeable` are sections and keys; a section may be replaced by another option as a whole. Raises `UserError` for
    an unknown key, a wrong value, or one that cannot change once the run has begun.
    """
    if not overrides:
        return config
    keys = [parse_override(text).key_or_group for text in literal_overrides(overrides)]
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
