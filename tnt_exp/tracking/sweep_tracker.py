"""A sweep in MLflow: the parent run, and the runs of trials that could not send everything themselves."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from tnt_exp.atomic_files import atomic_write, atomic_write_json, is_unlocked, read_json
from tnt_exp.tracking.folder_run import now_ms
from tnt_exp.tracking.mirror import Mirror
from tnt_exp.tracking.record import FILES, PARENT, is_tracked
from tnt_exp.tracking.tracker import BaseTracker


class SweepTracker(BaseTracker):
    """Keeps MLflow equal to a sweep folder: the parent run, and the trials that are given to `sync_trials`."""

    def __init__(self, mirror: Mirror) -> None:
        self._trials: dict[Path, None] = {}
        super().__init__(mirror)

    @classmethod
    def open(cls, folder: Path, uri: str, experiment: str, sweep_id: str, tags: Mapping[str, str]) -> Self:
        """Resume the parent run that `mlflow.json` in a sweep folder names, or create one.

        Raises:
            UserError: The store of a new sweep cannot be reached, or the experiment was deleted.
        """
        mirror = Mirror(folder)
        tags = {"sweep": "parent", "sweep_id": sweep_id, "run_folder": str(folder), **tags}
        keys = ", ".join(key.rpartition(".")[2] for key in tags.get("swept", "").split())
        mirror.begin(uri, experiment, f"sweep {keys} {sweep_id.rpartition('_')[2]}", tags)
        tracker = cls(mirror)
        tracker.note(status="RUNNING", end_time=None)
        return tracker

    def sync_trials(self, folders: Iterable[Path]) -> None:
        """Send what MLflow lacks of trials that have ended; one that was killed without a result is KILLED."""
        self._trials |= dict.fromkeys(folder for folder in folders if is_tracked(folder))

    @property
    def files(self) -> Path:
        """The folder whose files are logged with the parent run."""
        return self._mirror.folder / FILES

    def table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log a table that the UI shows."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        atomic_write(self.files / name, json.dumps({"columns": list(columns), "data": rows}))

    def link(self, run_id: str | None, text: str) -> str:
        """Return a text that leads to a run, as Markdown; without a run, the text."""
        page = f"#/experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"
        return f"[{text}]({page})" if run_id else text

    def finish(self, status: str) -> None:
        """Set the final status (FINISHED, FAILED or KILLED), and wait a limited time until everything is sent."""
        self.note(status=status, end_time=now_ms())
        self._finish(status)

    def note(self, tags: Mapping[str, str] | None = None, **values: object) -> None:
        """Write down what is derived from no other file of the sweep."""
        file = self._mirror.folder / PARENT
        before = read_json(file) or {}
        atomic_write_json(file, {**before, **values, "tags": {**before.get("tags", {}), **(tags or {})}})

    def _sync(self) -> Exception | None:
        failed = self._mirror.sync()
        for folder in list(self._trials):
            error = None
            if is_unlocked(folder / ".lock"):  # else it was started again, and sends for itself
                dead = None if (folder / "result.json").exists() else {"status": "KILLED"}
                error = Mirror(folder).sync(dead, trust_cursor=True)
            if error is None:
                del self._trials[folder]
            failed = failed or error
        return failed
