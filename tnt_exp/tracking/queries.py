"""Queries for runs in MLflow: found again, fetched, and extended by what came after training."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from tnt_exp.atomic_files import is_here, read_json
from tnt_exp.errors import UserError, first_line
from tnt_exp.tracking.client import (
    keeping_settings,
    make_client,
    quote_filter_value,
    relocated_uri,
    resolve_tracking_uri,
    search_all_runs,
    store_exists,
)
from tnt_exp.tracking.folder_run import now_ms

log = logging.getLogger("tnt_exp")

MlflowRun: TypeAlias = Run
History: TypeAlias = Callable[[str, str], list[tuple[float, float]]]  # by run id and metric: (step, value) pairs


@keeping_settings()
def resolve_run_folder(reference: str, uri: str | None, fetched: Path) -> Path:
    """Return the run folder of a run or model that MLflow knows.

    Args:
        reference: A run id, `runs:/ID`, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/MODEL_ID`.
        uri: Tracking store; None: `MLFLOW_TRACKING_URI`, else SQLite in the working folder.
        fetched: Where the files of a run are downloaded to if its folder is not on this machine.

    Raises:
        UserError: The store or the run does not exist, or the run has no model.
    """
    uri = _store(reference, uri)
    client = make_client(uri)
    try:
        run = client.get_run(_run_id(client, reference))
        folder: Path = Path(run.data.tags.get("run_folder", "nowhere"))
        return folder if is_here(folder / "model.keras") else _fetch(client, uri, run, fetched)
    except (MlflowException, OSError) as error:
        raise UserError(f"{reference}: expected a run with a model in {uri}, received: {first_line(error)}") from error


@keeping_settings()
def tagged_run_folder(run_id: str, uri: str | None) -> Path:
    """Return the folder that the tag `run_folder` names, there or not; raise `UserError` if it is no run of tnt-exp."""
    uri = _store(run_id, uri)
    try:
        return Path(make_client(uri).get_run(run_id).data.tags["run_folder"])
    except (MlflowException, KeyError) as error:
        raise UserError(f"{run_id}: expected a run of tnt-exp in {uri}, received: {first_line(error)}") from error


@keeping_settings()
def experiment_folders(name: str, uri: str | None) -> list[Path]:
    """Return the run folders of an experiment on this machine, and report others; raise `UserError` without one."""
    uri = _store(name, uri)
    client = make_client(uri)
    try:
        experiment = client.get_experiment_by_name(name)
        runs = list(search_all_runs(client, [experiment.experiment_id])) if experiment else []
    except MlflowException as error:
        raise UserError(f"{uri}: expected a tracking store, received {first_line(error)}.") from error
    if experiment is None:
        raise UserError(f"{name}: expected a folder of runs, the name of a run or an experiment of {uri}, found none.")
    folders = [
        Path(run.data.tags.get("run_folder", "nowhere")) for run in runs if run.data.tags.get("sweep") != "parent"
    ]
    here = [folder for folder in folders if is_here(folder / "config.yaml")]
    if len(here) < len(folders):
        log.warning("%s: %d of %d runs have no folder on this machine", name, len(folders) - len(here), len(folders))
    return here


def _store(reference: str, uri: str | None) -> str:
    uri = resolve_tracking_uri(uri)
    if not store_exists(uri):
        raise UserError(f"{reference}: expected a tracking store at {uri}, found none. Say where with --uri")
    return uri


def _run_id(client: mlflow.MlflowClient, reference: str) -> str:
    if not reference.startswith("models:/"):
        return reference.removeprefix("runs:/").partition("/")[0]
    name = reference.removeprefix("models:/")
    if "@" in name:
        run_id = client.get_model_version_by_alias(*name.split("@", 1)).run_id
    elif "/" in name:
        run_id = client.get_model_version(*name.split("/", 1)).run_id
    else:
        run_id = client.get_logged_model(name).source_run_id
    if not run_id:
        raise MlflowException(f"{reference} does not say which run it comes from")
    return str(run_id)


def _fetch(client: mlflow.MlflowClient, uri: str, run: Run, fetched: Path) -> Path:
    folder: Path = (fetched / run.info.run_id).resolve()
    has_model = (folder / "model.keras").is_file()
    if has_model and (folder / "dataset.json").is_file():
        return folder
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        raise MlflowException(f"run {run.info.run_id} logged no model")
    folder.mkdir(parents=True, exist_ok=True)
    logged = {file.path for file in client.list_artifacts(run.info.run_id)}
    # The precision, and which images the run was trained on; older runs did not log them.
    for name in ("config.yaml", "result.json", *(name for name in ("provenance", "dataset.json") if name in logged)):
        client.download_artifacts(run.info.run_id, name, str(folder))
    if has_model:
        return folder
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        location = client.get_logged_model(outputs[0].model_id).artifact_location
        download_artifacts(artifact_uri=location, dst_path=beside, tracking_uri=uri)
        files = list(Path(beside).rglob("*.keras"))
        if len(files) != 1:
            raise MlflowException(f"the model of run {run.info.run_id} holds no Keras file")
        files[0].replace(folder / "model.keras")  # last: a folder with a model is complete
    return folder


def run_store(folder: Path) -> str | None:
    """Return the store that `mlflow.json` names, or, for a run that was fetched, the default; None if it is gone."""
    reference = read_json(folder / "mlflow.json", skip=True) or {"uri": resolve_tracking_uri(None)}
    return relocated_uri(reference["uri"], folder)


def log_evaluation(uri: str | None, run_id: str, metrics: Mapping[str, float], files: Path) -> bool:
    """Log metrics and a folder of files, under its own name, with a run that has ended, in the store of `run_store`.

    Return whether MLflow has them; if not, a warning gives the reason.
    """
    try:
        if uri is None:
            raise MlflowException("the tracking store of the run is not on this machine")
        client = make_client(uri)
        client.log_batch(run_id, metrics=[Metric(key, value, now_ms(), 0) for key, value in metrics.items()])
        client.log_artifacts(run_id, str(files), files.name)
    except Exception as error:  # whatever the store does, the evaluation is in its folder
        log.warning("MLflow: %s", first_line(error))
        return False
    return True


def read_sweep_runs(uri: str, sweep_id: str) -> tuple[MlflowRun, list[MlflowRun], History]:
    """Return the parent run of a sweep, its children by number, and what reads curves, or raise `UserError`."""
    client = make_client(_store(sweep_id, uri))
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = list(search_all_runs(client, experiments, f"tags.sweep_id = {quote_filter_value(sweep_id)}"))
    except (MlflowException, OSError) as error:
        raise UserError(f"{uri}: expected a tracking store, received {first_line(error)}.") from error

    def history(run_id: str, metric: str) -> list[tuple[float, float]]:
        return [(float(point.step), float(point.value)) for point in client.get_metric_history(run_id, metric)]

    parents = [run for run in found if run.data.tags.get("sweep") == "parent"]
    if not parents:
        raise UserError(
            f"{sweep_id}: expected the folder of a sweep or the id of one in {uri}, received neither. "
            "The id is the name of a sweep's folder, and the tag sweep_id of its runs."
        )
    children = [run for run in found if "sweep_job" in run.data.tags]
    return parents[0], sorted(children, key=lambda run: int(run.data.tags["sweep_job"])), history
