"""Problems in a tracking store: dead runs, runs in the wrong experiment, lost artifacts, an old file store."""

import platform
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Run

from tnt_exp.atomic_files import acquire_lock, atomic_write_json, is_gone, is_here, is_unlocked, read_json, release_lock
from tnt_exp.errors import first_line
from tnt_exp.run_folder import ARTIFACTS
from tnt_exp.tracking.client import (
    SQLITE_PREFIX,
    correct_addresses,
    make_client,
    moved_from,
    search_all_runs,
    sqlite_file,
    ui_command,
)
from tnt_exp.tracking.mirror import Mirror
from tnt_exp.tracking.record import REFERENCE, is_tracked, read_reference

_DEFAULT = "0"  # MLflow's experiment for runs that name none


@dataclass(frozen=True)
class Finding:
    """A problem, and how it is fixed."""

    issue: str  # one line
    fix_description: str  # what the fix does; if it cannot be fixed here, what to do; one line
    fix: Callable[[], Exception | None] | None  # returns why it failed; None: it cannot be fixed here


def find_problems(uri: str) -> Iterator[Finding]:
    """Yield the problems in a store that exists."""
    for old in moved_from(uri):
        yield Finding(
            f"MLflow looks for artifacts in {old}, from where the project was moved",
            "let it find them beside the store",
            lambda: correct_addresses(uri),
        )
    client = make_client(uri, as_found=True)
    file = sqlite_file(uri)
    base = file.parent if file else Path.cwd()
    try:
        experiments = client.search_experiments()
    except mlflow.MlflowException as error:
        yield Finding(f"{uri} does not answer: {first_line(error)}", "start it, or correct --uri", None)
        return
    for experiment in experiments:
        for run in search_all_runs(client, [experiment.experiment_id]):
            if "run_folder" not in run.data.tags and "tracking.experiment" not in run.data.params:
                continue  # not a run of tnt-exp
            if run.info.status == "RUNNING":
                yield from _unseen(client, run, base)
            elif "tracking.experiment" in run.data.params:
                yield from _artifacts(client, run, base)
            if experiment.experiment_id == _DEFAULT:
                yield from _misplaced(client, file, run)
    for folder in sorted(file.parent.resolve() for file in Path("multirun").rglob(REFERENCE)):
        mirror = Mirror(folder, packages=True)
        mirror.client, mirror.reference = client, read_reference(folder)
        if mirror.reference.get("uri") == uri and mirror.find_run() is None:  # the database was deleted
            issue = f"the MLflow run of {folder} is not in {uri}"
            yield Finding(issue, "log it again from the folder", mirror.sync)


def store_file_problem(uri: str) -> str | None:
    """Return what SQLite finds wrong with the file of a store, or None."""
    file = sqlite_file(uri)
    if file is None or not file.exists():
        return None
    try:
        with closing(sqlite3.connect(file)) as database:
            answer = str(database.execute("PRAGMA quick_check").fetchone()[0])
    except sqlite3.Error as error:
        answer = str(error)
    return None if answer == "ok" else f"{file} is damaged: {answer.splitlines()[0]}"


def _unseen(client: mlflow.MlflowClient, run: Run, base: Path) -> Iterator[Finding]:
    """A run that is marked RUNNING although its process is dead."""
    name, folder = _name(run), _folder(run, base)
    host = run.data.tags.get("host", platform.node())
    if not is_here(folder) and (host != platform.node() or not is_gone(folder)):
        where = f"in {folder}, which another user owns" if host == platform.node() else "which is another machine"
        yield Finding(f"{name} is RUNNING on {host}, {where}", "run tnt-exp doctor there", None)
        return
    if not is_unlocked(folder / ".lock"):
        return  # alive
    status = (read_json(folder / "result.json", skip=True) or {}).get("status", "KILLED")

    def fix() -> None:
        held = acquire_lock(folder / ".lock") if folder.is_dir() else None
        if folder.is_dir() and held is None:
            return  # it was started again meanwhile
        if (folder / "config.yaml").is_file() and not (folder / "result.json").exists():
            result = {"status": "KILLED", "metrics": {}, "error": "the process died without writing a result"}
            atomic_write_json(folder / "result.json", result)
        if is_tracked(folder):
            Mirror(folder).sync()
        info = client.get_run(run.info.run_id).info
        if (info.status, info.lifecycle_stage) == ("RUNNING", "active"):  # its folder is gone, or has another run
            client.set_terminated(run.info.run_id, status)
        if held is not None:
            release_lock(held)

    gone = "" if folder.is_dir() else " and its folder is gone"
    yield Finding(f"{name} is RUNNING, but its process is dead{gone}", f"mark it {status}", fix)


def _artifacts(client: mlflow.MlflowClient, run: Run, base: Path) -> Iterator[Finding]:
    """A run that has ended and whose files MLflow does not have (any more)."""
    if "result.json" in {file.path for file in client.list_artifacts(run.info.run_id)}:
        return
    folder, issue = _folder(run, base), f"{_name(run)} has lost its artifacts ({run.info.artifact_uri})"
    if not is_here(folder / "result.json"):
        yield Finding(issue, f"nothing is left of them: {folder} is gone too", None)
        return

    def fix() -> None:
        for path in (folder / name for name in ARTIFACTS if (folder / name).exists()):
            to = path.name if path.is_dir() else None
            (client.log_artifacts if to else client.log_artifact)(run.info.run_id, str(path), to)

    yield Finding(issue, f"log them again from {folder}", fix)


def _misplaced(client: mlflow.MlflowClient, file: Path | None, run: Run) -> Iterator[Finding]:
    """A run in the experiment *Default* that belongs to another experiment."""
    meant = run.data.params.get("tracking.experiment", "Default")
    if meant == "Default":
        return
    issue = f"{_name(run)} is in the experiment Default, not in {meant}"
    found = client.get_experiment_by_name(meant)
    if found is None or file is None:
        yield Finding(issue, "MLflow cannot move a run of a server; SQLite's are, once the experiment exists", None)
        return

    def fix() -> None:
        with closing(sqlite3.connect(file, timeout=60)) as database, database:
            move = "UPDATE {} SET experiment_id = ? WHERE {} = ?"
            for table, key in (("runs", "run_uuid"), ("logged_models", "source_run_id")):
                database.execute(move.format(table, key), (int(found.experiment_id), run.info.run_id))

    yield Finding(issue, f"move it to {meant}; its artifacts stay where they are", fix)


def file_store(folder: Path) -> Iterator[Finding]:
    """The file store of an older MLflow in `mlruns`: MLflow's own commands open it instead of the database."""
    metas = sorted((folder / "mlruns").glob("*/meta.yaml"))
    if not metas:
        return
    runs, target = len(list((folder / "mlruns").glob("*/*/meta.yaml"))), folder / "mlruns.db"
    copied = f"copy its runs to {target} ({ui_command(SQLITE_PREFIX + str(target), '')}), and " if runs else ""

    def fix() -> None:
        if runs and not target.exists():
            from mlflow.store.fs2db import migrate

            migrate(folder, f"{SQLITE_PREFIX}{target}", progress=False)
        for meta in metas:
            meta.rename(meta.with_name("meta.yaml.before"))

    yield Finding(
        f"{folder / 'mlruns'} is the file store of an older MLflow ({runs} runs): a plain mlflow ui opens it",
        f"{copied}rename its {len(metas)} meta.yaml to meta.yaml.before; artifacts stay where they are",
        fix,
    )


def _name(run: Run) -> str:
    return f"run {run.info.run_name} ({run.info.run_id})"


def _folder(run: Run, base: Path) -> Path:
    """Return the folder of a run: where it is now, if the project moved to `base`."""
    folder = Path(run.data.tags.get("run_folder", "nowhere"))
    if is_here(folder) or "multirun" not in folder.parts:
        return folder
    index = len(folder.parts) - 1 - folder.parts[::-1].index("multirun")
    moved = base.joinpath(*folder.parts[index:])
    return moved if moved.exists() else folder
