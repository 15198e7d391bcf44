"""A sweep in MLflow: the parent run, and its children's states where a child could not say its own."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import mlflow

from tnt_exp.tracking import reconcile
from tnt_exp.tracking.client import resume_or_create_run
from tnt_exp.tracking.outbox import FOLDER, Outbox, RunRef
from tnt_exp.tracking.tracker import BaseTracker, now_ms

PARENT = "mlflow.parentRunId"


class SweepTracker(BaseTracker):
    """Tells MLflow of a sweep.

    Args:
        spool: Of the sweep's folder.
        run: The parent run.
        sweep_id: Name of the sweep.
    """

    def __init__(self, spool: Outbox, run: RunRef, sweep_id: str) -> None:
        super().__init__(spool, run)
        self._sweep_id = sweep_id

    @classmethod
    def open(cls, folder: Path, uri: str, experiment: str, sweep_id: str) -> Self:
        """Go on with the parent run that a folder tells of, or begin one.

        Args:
            folder: The sweep's folder.
            uri: Tracking store.
            experiment: Name; created when new.
            sweep_id: Name of the sweep.

        Raises:
            UserError: A new sweep's store cannot be reached or the experiment was deleted.
        """
        spool = Outbox(folder)

        def find(client: mlflow.MlflowClient, experiment_id: str) -> str | None:
            found = reconcile.search_sweep_runs(client, experiment_id, sweep_id, "tags.sweep = 'parent'")
            return next((str(run.info.run_id) for run in found), None)

        def make(client: mlflow.MlflowClient, experiment_id: str) -> str:
            tags = {"sweep": "parent", "sweep_id": sweep_id}
            return str(client.create_run(experiment_id, run_name=f"sweep_{sweep_id}", tags=tags).info.run_id)

        run, _ = resume_or_create_run(spool, uri, experiment, find, make)
        tracker = cls(spool, run, sweep_id)
        tracker._say("status", status="RUNNING")
        return tracker

    def settle(self, endings: Mapping[Path, tuple[str, str | None, Mapping[str, str]]]) -> None:
        """Make the runs of run folders say what became of them; a run that a process is at is left alone.

        Args:
            endings: Run folder: how it ended; the run that tells of it (`mlflow_run_id` of its result), any other is
                a try that left nothing, None: not known; further tags of the run.
        """
        if endings:
            said = {
                str(folder): {"status": status, "keep": keep, "tags": dict(tags)}
                for folder, (status, keep, tags) in endings.items()
            }
            self._say("settle", sweep_id=self._sweep_id, endings=said)

    def artifacts(self, files: Iterable[Path], folder: str | None = None) -> None:
        """Log files with the parent run; they are kept with the sweep until MLflow has them."""
        for file in files:
            path = "/".join(filter(None, (FOLDER, "files", folder, file.name)))
            copy = self._spool.folder / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy.with_name(f".{copy.name}"))
            copy.with_name(f".{copy.name}").replace(copy)
            self._say("artifact", path=path, to=folder)

    def table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log a table that the UI shows."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._say("text", text=json.dumps({"columns": list(columns), "data": rows}), to=name)

    def best(self, child: str | None, job: int, params: Mapping[str, str], objective: str, value: float) -> None:
        """Say which child is the best: as tags, as a metric, and as a link in the description."""
        point = ", ".join(f"{key}={value}" for key, value in params.items())
        self.tags({"best_job": str(job), "best_point": point})
        self._say("metrics", time=now_ms(), step=0, values={f"best/{objective}": value})
        if child:
            link = f"#/experiments/{self._experiment_id}/runs/{child}"
            note = f"Best: [job {job}]({link}), {objective} {value:.4f}, {point}. The page: artifact report.html."
            self.tags({"best_run_id": child, "mlflow.note.content": note})
