"""From what a person types to a finished run."""

import os
import re
from pathlib import Path

from tnt_exp.config import InputError
from tnt_exp.finished.run import FinishedRun
from tnt_exp.sweep.books import NAME, Books
from tnt_exp.sweep.point import State, objective_of

_RUN_ID = re.compile(r"[0-9a-f]{32}")
KINDS = "a run folder, an MLflow run id, runs:/ID, models:/NAME@ALIAS or best:SWEEP_FOLDER"


def find(reference: str | os.PathLike[str], uri: str | None = None) -> FinishedRun:
    """The run that is meant.

    Args:
        reference: A run folder (relative to the working folder or absolute), an MLflow run id, `runs:/ID`,
            `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or `best:SWEEP_FOLDER`: its best point. A run that MLflow
            knows and whose folder is not on this machine is fetched to `multirun/fetched/ID`.
        uri: Tracking store to ask; None: sqlite in the working folder.

    Raises:
        InputError: There is no such run, or it left no model.
    """
    text = os.fspath(reference)
    if text.startswith("best:"):
        return FinishedRun.open(_best(Path(text.removeprefix("best:")).expanduser()))
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / NAME).is_file():
            raise InputError(f"{text}: expected one run, received a sweep. Its best run is best:{text}")
        return FinishedRun.open(path)
    if text.startswith(("runs:/", "models:/")) or _RUN_ID.fullmatch(text):
        from tnt_exp.tracking.finished import folder_of

        return FinishedRun.open(folder_of(text, uri, Path("multirun/fetched")))
    raise InputError(f"{text}: expected {KINDS}, received something else.{_newest()}")


def run_folder(reference: str, uri: str | None = None) -> Path:
    """The folder of a run, whatever became of it.

    Args:
        reference: The folder, or the MLflow id of a run on this machine.
        uri: Tracking store to ask for an id; None: sqlite in the working folder.

    Raises:
        InputError: There is no such run here.
    """
    folder = Path(reference).expanduser()
    if _RUN_ID.fullmatch(reference) and not folder.exists():
        from tnt_exp.tracking.finished import said_folder

        folder = said_folder(reference, uri)
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{reference}: expected a run folder or an MLflow run id, found no config.yaml in {folder}.")
    return folder.resolve()


def _best(folder: Path) -> Path:
    books = Books.open(folder)
    values = {
        point.job: value
        for point in books.points
        if books.state(point) is State.finished
        and (value := objective_of(books.result(point), books.data["objective"])) is not None
    }
    if not values:
        raise InputError(f"best:{folder}: expected a sweep with a finished run, received one without.")
    job = (max if books.maximize else min)(values, key=values.__getitem__)  # the first of equals
    return books.folder / str(job)


def _newest() -> str:
    folders = sorted(file.parent for file in Path("multirun/runs").glob("*/model.keras"))
    return f" The newest run here: {folders[-1]}" if folders else ""
