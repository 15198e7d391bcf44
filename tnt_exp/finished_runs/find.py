"""Find a run by what the user typed, and load its model."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp import provenance
from tnt_exp.config.trainer import TrainerConfig
from tnt_exp.errors import UserError, similar_path
from tnt_exp.finished_runs.run import FinishedRun
from tnt_exp.model.weights_file import shipped_model
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


def find_run(reference: str | os.PathLike[str], uri: str | None = None) -> FinishedRun:
    """Return the run that a reference names.

    Args:
        reference: A run folder (relative or absolute), a `run.name`, an MLflow run id, `runs:/ID`,
            `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or `best:SWEEP_FOLDER` (the best trial of a sweep). A run that
            MLflow knows and whose folder is not on this machine is downloaded to `multirun/fetched/ID`.
        uri: Tracking store; None: SQLite in the working folder.

    Raises:
        UserError: There is no such run, or it has no model.
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
    """Return the folder of a run, finished or not.

    Args:
        reference: The folder, the `run.name`, or the MLflow id of a run on this machine.
        uri: Tracking store for an id; None: SQLite in the working folder.

    Raises:
        UserError: There is no such run on this machine.
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
    """Return the run folders that a reference names.

    Args:
        reference: A folder of runs and sweeps, one of them, the name of one, the MLflow id of a run, or the name of an
            MLflow experiment, of which the runs on this machine are found.
        uri: Tracking store, if MLflow is asked; None: SQLite in the working folder.

    Raises:
        UserError: There is no such folder, run or experiment.
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
    folders = sorted(file.parent for file in Path("multirun/runs").glob("*/model.keras"))
    return f" The newest run here: {folders[-1]}" if folders else ""


def load_model(run: str | os.PathLike[str], uri: str | None = None) -> "Classifier":
    """Return the Keras model of a finished run: `tnt_exp.load("multirun/runs/...").predict(images)`.

    Keras runs on the backend that the process has chosen (`KERAS_BACKEND`, or an earlier `import keras`), else on the
    one that trained the model.

    Args:
        run: A run folder, an MLflow run id, `runs:/ID`, `models:/NAME@ALIAS` or `best:SWEEP_FOLDER`.
        uri: Tracking store, if MLflow is asked; None: SQLite in the working folder.

    Returns:
        The model. `predict` takes images (N, height, width, channels), uint8 or floats in 0..255, and returns logits
        (N, classes), float32. `class_names` are in the order of the logits.

    Raises:
        UserError: There is no such run, or its model cannot be read.
    """
    finished = find_run(run, uri)
    os.environ.setdefault("KERAS_BACKEND", finished.config.trainer.backend.value)  # no effect once Keras is imported
    from tnt_exp import model

    return model.load(finished.model_file)


def load_for_evaluation(finished: FinishedRun, trainer: TrainerConfig) -> "Classifier":
    """Return the model as training evaluated it: on the same backend, compiled in the same way, so with the same bits.

    Args:
        finished: The run.
        trainer: Its section `trainer`, possibly with another backend.

    Raises:
        UserError: Keras already runs on another backend.
    """
    from tnt_exp.training.device import prepare_device

    trainer = trainer.with_precision(provenance.recorded_precision(finished.path))
    device = prepare_device(replace(trainer, devices=1))  # as in training, one device evaluates
    from tnt_exp import model

    classifier = model.load(finished.model_file)
    classifier.jit_compile = device.xla
    return classifier
