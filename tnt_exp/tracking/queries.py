"""Finished runs in MLflow: found again, fetched, told about what came after training."""

# MERGED DOCS:
# """Read a sweep back from MLflow."""

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from tnt_exp.errors import UserError
from tnt_exp.tracking.client import make_client, relocated_uri, resolve_tracking_uri, store_exists

log = logging.getLogger("tnt_exp")

_SQLITE = "sqlite:///"


def resolve_run_folder(reference: str, uri: str | None, fetched: Path) -> Path:
    """The run folder of what MLflow knows.

    Args:
        reference: A run id, `runs:/ID`, `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/MODEL_ID`.
        uri: Tracking store; None: `MLFLOW_TRACKING_URI`, else sqlite in the working folder.
        fetched: Where a run's files go whose folder is not on this machine.

    Raises:
        UserError: The store or the run does not exist, or the run has no model.
    """
    uri = _store(reference, uri)
    client = make_client(uri)
    try:
        run = client.get_run(_run_id(client, reference))
        folder: Path = Path(run.data.tags.get("run_folder", "nowhere"))
        return folder if (folder / "model.keras").is_file() else _fetch(client, uri, run, fetched)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{reference}: expected a run with a model in {uri}, received: {str(error).splitlines()[0]}"
        ) from error


def tagged_run_folder(run_id: str, uri: str | None) -> Path:
    """The folder that a run's tag says, there or not.

    Raises:
        UserError: The store or the run does not exist, or the run is none of tnt-exp.
    """
    uri = _store(run_id, uri)
    try:
        return Path(mlflow.MlflowClient(uri).get_run(run_id).data.tags["run_folder"])
    except (MlflowException, KeyError) as error:
        raise UserError(f"{run_id}: expected a run of tnt-exp in {uri}, received: {error}") from error


def _store(reference: str, uri: str | None) -> str:
    uri = resolve_tracking_uri(uri or os.environ.get("MLFLOW_TRACKING_URI"))
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
    if (folder / "model.keras").is_file():
        return folder
    outputs = run.outputs.model_outputs if run.outputs else []
    if not outputs:
        raise MlflowException(f"run {run.info.run_id} logged no model")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "result.json"):
        client.download_artifacts(run.info.run_id, name, str(folder))
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        location = client.get_logged_model(outputs[0].model_id).artifact_location
        download_artifacts(artifact_uri=location, dst_path=beside, tracking_uri=uri)
        files = list(Path(beside).rglob("*.keras"))
        if len(files) != 1:
            raise MlflowException(f"the model of run {run.info.run_id} holds no Keras file")
        files[0].replace(folder / "model.keras")  # last: with it, the folder is whole
    return folder


def run_store(folder: Path) -> str | None:
    """The store that knows the run of a folder, as the folder says; None where it is gone."""
    file = folder / "mlflow.json"
    return relocated_uri(str(json.loads(file.read_text())["uri"]) if file.is_file() else f"{_SQLITE}/nowhere", folder)


def log_evaluation(uri: str | None, run_id: str, metrics: Mapping[str, float], files: Path) -> bool:
    """Log numbers and a folder of files with a run that has ended.

    Args:
        uri: The store, of `store_of`.
        run_id: The run.
        metrics: Their names and values.
        files: A folder, logged under its own name.

    Returns:
        Whether MLflow has them; where not, a warning says why.
    """
    try:
        if uri is None:
            raise MlflowException("the tracking store of the run is not here")
        client = make_client(uri)
        now = int(time.time() * 1000)
        client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])
        client.log_artifacts(run_id, str(files), files.name)
    except Exception as error:  # whatever a store does, the evaluation is in its folder
        log.warning("MLflow: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
        return False
    return True


@dataclass(frozen=True)
class MlflowRun:
    """What MLflow knows of one run."""

    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    history: Callable[[str, str], list[tuple[float, float]]]


def read_sweep_runs(uri: str, sweep_id: str) -> tuple[MlflowRun, list[MlflowRun]]:
    """The parent run of a sweep and its children.

    Args:
        uri: Tracking store.
        sweep_id: The sweep's id.

    Raises:
        UserError: The store cannot be read or has no such sweep.
    """
    client = make_client(uri)
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found: list[Run] = []
        token: str | None = None
        while True:
            page = client.search_runs(experiments, f"tags.sweep_id = '{sweep_id}'", max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                break
    except (MlflowException, OSError) as error:
        raise UserError(f"{uri}: expected a tracking store, received {str(error).splitlines()[0]}.") from error

    def history(run_id: str, metric: str) -> list[tuple[float, float]]:
        return [(float(point.step), float(point.value)) for point in client.get_metric_history(run_id, metric)]

    def told(run: Run) -> MlflowRun:
        data = run.data
        return MlflowRun(run.info.run_id, run.info.status, data.params, data.metrics, data.tags, history)

    parents = [run for run in found if run.data.tags.get("sweep") == "parent"]
    if not parents:
        raise UserError(
            f"{sweep_id}: expected the folder of a sweep or the id of one in {uri}, received neither. "
            "The id is the name of a sweep's folder, and the tag sweep_id of its runs."
        )
    return told(parents[0]), [told(run) for run in found if "sweep_job" in run.data.tags]
