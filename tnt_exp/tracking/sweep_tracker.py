"""A sweep in MLflow: the parent run, and the states of children that could not log their own."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import mlflow

from tnt_exp.tracking.client import resume_or_create_run, search_sweep_runs
from tnt_exp.tracking.outbox import FOLDER, Outbox, RunRef
from tnt_exp.tracking.tracker import BaseTracker, now_ms


class SweepTracker(BaseTracker):
    """Logs a sweep to MLflow, with its parent run."""

    def __init__(self, outbox: Outbox, run: RunRef, sweep_id: str) -> None:
        super().__init__(outbox, run)
        self._sweep_id = sweep_id

    @classmethod
    def open(cls, folder: Path, uri: str, experiment: str, sweep_id: str) -> Self:
        """Resume the parent run that a sweep folder names, or create one.

        Raises:
            UserError: The store of a new sweep cannot be reached, or the experiment was deleted.
        """
        outbox = Outbox(folder)

        def find(client: mlflow.MlflowClient, experiment_id: str) -> str | None:
            found = search_sweep_runs(client, experiment_id, sweep_id, "tags.sweep = 'parent'")
            return next((str(run.info.run_id) for run in found), None)

        def make(client: mlflow.MlflowClient, experiment_id: str) -> str:
            tags = {"sweep": "parent", "sweep_id": sweep_id}
            return str(client.create_run(experiment_id, run_name=f"sweep_{sweep_id}", tags=tags).info.run_id)

        run, _ = resume_or_create_run(outbox, uri, experiment, find, make)
        tracker = cls(outbox, run, sweep_id)
        tracker._enqueue("status", status="RUNNING")
        return tracker

    def reconcile(self, endings: Mapping[Path, tuple[str, str | None, Mapping[str, str]]]) -> None:
        """Give the runs of trials the status of their outcomes; a run whose folder is in use is left alone.

        Args:
            endings: For each run folder: the status; the run of the folder (`mlflow_run_id` of its result; any other
                run is a try that left nothing; None: unknown); further tags of the run.
        """
        if endings:
            message = {
                str(folder): {"status": status, "keep": keep, "tags": dict(tags)}
                for folder, (status, keep, tags) in endings.items()
            }
            self._enqueue("settle", sweep_id=self._sweep_id, endings=message)

    def artifacts(self, files: Iterable[Path], folder: str | None = None) -> None:
        """Log files with the parent run; copies are kept in the sweep folder until MLflow has them."""
        for file in files:
            path = "/".join(filter(None, (FOLDER, "files", folder, file.name)))
            copy = self._outbox.folder / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy.with_name(f".{copy.name}"))
            copy.with_name(f".{copy.name}").replace(copy)
            self._enqueue("artifact", path=path, to=folder)

    def table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log a table that the UI shows."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._enqueue("text", text=json.dumps({"columns": list(columns), "data": rows}), to=name)

    def best(self, child: str | None, job: int, params: Mapping[str, str], objective: str, value: float) -> None:
        """Log the best child: as tags, as a metric, and as a link in the description."""
        label = ", ".join(f"{key}={value}" for key, value in params.items())
        self.tags({"best_job": str(job), "best_point": label})
        self._enqueue("metrics", time=now_ms(), step=0, values={f"best/{objective}": value})
        if child:
            link = f"#/experiments/{self._experiment_id}/runs/{child}"
            note = f"Best: [job {job}]({link}), {objective} {value:.4f}, {label}. The page: artifact report.html."
            self.tags({"best_run_id": child, "mlflow.note.content": note})
