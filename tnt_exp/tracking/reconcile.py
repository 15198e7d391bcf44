"""Make the MLflow runs of a sweep say what became of their folders."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, ViewType

from tnt_exp.atomic_files import is_unlocked


def reconcile_runs(client: mlflow.MlflowClient, experiment_id: str, message: dict[str, Any]) -> None:
    """Send a message of `SweepTracker.settle`.

    Args:
        client: Of the store.
        experiment_id: Of the sweep.
        message: `sweep_id`, and `endings`: run folder: status, keep, tags.
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
    # Where the folder's lock is taken, it was started again before this was told.
    if run.info.status == "RUNNING" and is_unlocked(folder / ".lock"):
        client.set_terminated(run.info.run_id, status if keep in (None, run.info.run_id) else "KILLED")
    if keep not in (None, run.info.run_id):
        client.delete_run(run.info.run_id)
        return
    for key, value in tags.items():
        client.set_tag(run.info.run_id, key, value)


def search_sweep_runs(client: mlflow.MlflowClient, experiment_id: str, sweep_id: str, condition: str) -> Iterator[Run]:
    """The runs of a sweep that were not deleted."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.sweep_id = {quote_filter_value(sweep_id)} and {condition}",
            run_view_type=ViewType.ACTIVE_ONLY,
            max_results=1000,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def quote_filter_value(text: str) -> str:
    """A text in a search."""
    return f'"{text}"' if "'" in text else f"'{text}'"
