"""Bring the MLflow runs of a sweep in line with the outcomes in their folders."""

from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run

from tnt_exp.atomic_files import is_unlocked
from tnt_exp.tracking.client import quote_filter_value, search_sweep_runs


def reconcile_runs(client: mlflow.MlflowClient, experiment_id: str, message: dict[str, Any]) -> None:
    """Apply a message of `SweepTracker.reconcile`.

    Args:
        client: Of the store.
        experiment_id: Of the sweep.
        message: `sweep_id`, and `endings`: for each run folder: status, keep, tags.
    """
    endings = message["endings"]
    condition = (
        f"tags.run_folder = {quote_filter_value(next(iter(endings)))}" if len(endings) == 1 else "tags.sweep_job != ''"
    )
    for run in search_sweep_runs(client, experiment_id, message["sweep_id"], condition):
        folder = run.data.tags.get("run_folder", "")
        if folder in endings:
            _reconcile_run(client, run, Path(folder), **endings[folder])


def _reconcile_run(
    client: mlflow.MlflowClient, run: Run, folder: Path, *, status: str, keep: str | None, tags: dict[str, str]
) -> None:
    # If the folder's lock is taken, the trial was started again before this message was sent.
    if run.info.status == "RUNNING" and is_unlocked(folder / ".lock"):
        client.set_terminated(run.info.run_id, status if keep in (None, run.info.run_id) else "KILLED")
    if keep not in (None, run.info.run_id):
        client.delete_run(run.info.run_id)
        return
    for key, value in tags.items():
        client.set_tag(run.info.run_id, key, value)
