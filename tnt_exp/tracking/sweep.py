"""A sweep in MLflow: the parent run, and its children's states where a child could not say its own."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow.entities import Run, RunStatus, ViewType
from mlflow.exceptions import MlflowException

from tnt_exp.config import InputError
from tnt_exp.tracking.creation import make_store
from tnt_exp.tracking.experiments import experiment_id

log = logging.getLogger("tnt_exp")
T = TypeVar("T")

PARENT = "mlflow.parentRunId"


class SweepTracker:
    """Tells MLflow of a sweep. A store that fails later on is warned about and never stops the sweep.

    Args:
        uri: Tracking store.
        experiment: Name; created when new.
        sweep_id: Name of the sweep.
        run_id: The parent run of a sweep that goes on; None: a new one, or the one a broken start left.

    Attributes:
        run_id: The parent run.

    Raises:
        InputError: The store cannot be reached or the experiment was deleted.
    """

    def __init__(self, uri: str, experiment: str, sweep_id: str, run_id: str | None) -> None:
        self._sweep_id = sweep_id
        try:
            make_store(uri)
            self._client = mlflow.MlflowClient(uri)
            self._experiment_id = experiment_id(self._client, uri, experiment)
            found = [run.info.run_id for run in self._search("tags.sweep = 'parent'")] if run_id is None else [run_id]
            self.run_id: str = found[0] if found else self._new()
            self._client.update_run(self.run_id, "RUNNING")
        except (MlflowException, OSError) as error:
            raise InputError(
                f"tracking.uri: expected a tracking store, received {uri}: {str(error).splitlines()[0]} "
                "(tracking=off sweeps without)."
            ) from error

    def _new(self) -> str:
        run = self._client.create_run(
            self._experiment_id,
            run_name=f"sweep_{self._sweep_id}",
            tags={"sweep": "parent", "sweep_id": self._sweep_id},
        )
        return str(run.info.run_id)

    def settle(self, folder: Path, status: str | None, keep: str | None, tags: Mapping[str, str] | None = None) -> None:
        """Make the runs of one run folder say what became of it.

        Args:
            folder: The run folder.
            status: How it ended; None: it will be started (again).
            keep: The run that tells of it (`mlflow_run_id` of its result); any other is a try that left nothing.
            tags: Further tags of the run.
        """

        def settle() -> None:
            runs = self._search(f"tags.run_folder = {_quoted(str(folder))}")
            for run in self._settle(runs, status, keep):
                for key, value in (tags or {}).items():
                    self._client.set_tag(run.info.run_id, key, value)

        self._tell(settle)

    def settle_all(self, endings: Mapping[Path, tuple[str | None, str | None]]) -> None:
        """`settle` for many run folders with one question to the store.

        Args:
            endings: Run folder: (status, keep).
        """

        def settle() -> None:
            runs: dict[str, list[Run]] = {}
            for run in self._search("tags.sweep_job != ''"):
                runs.setdefault(run.data.tags.get("run_folder", ""), []).append(run)
            for folder, (status, keep) in endings.items():
                self._settle(runs.get(str(folder), []), status, keep)

        self._tell(settle)

    def _settle(self, runs: Iterable[Run], status: str | None, keep: str | None) -> list[Run]:
        """Returns the runs that are kept."""
        kept = []
        for run in runs:
            stays = run.info.run_id == keep if keep else status is not None
            if run.info.status == RunStatus.to_string(RunStatus.RUNNING):
                self._client.set_terminated(run.info.run_id, (status if stays else None) or "KILLED")
            if stays:
                kept.append(run)
            else:
                self._client.delete_run(run.info.run_id)
        return kept

    def artifacts(self, files: Iterable[Path], folder: str | None = None) -> None:
        """Log files with the parent run."""
        for file in files:
            self._tell(lambda file=file: self._client.log_artifact(self.run_id, str(file), folder))  # type: ignore[misc]

    def table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Log a table that the UI shows."""
        text = json.dumps(
            {"columns": list(columns), "data": [list(row) for row in zip(*columns.values(), strict=True)]}
        )
        self._tell(lambda: self._client.log_text(self.run_id, text, name))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the parent run."""
        for key, value in values.items():
            self._tell(lambda key=key, value=value: self._client.set_tag(self.run_id, key, value))  # type: ignore[misc]

    def best(self, child: str | None, job: int, params: Mapping[str, str], objective: str, value: float) -> None:
        """Say which child is the best: as tags, as a metric, and as a link in the description."""
        point = ", ".join(f"{key}={value}" for key, value in params.items())
        self.tags({"best_job": str(job), "best_point": point})
        self._tell(lambda: self._client.log_metric(self.run_id, f"best/{objective}", value))
        if child:
            link = f"#/experiments/{self._experiment_id}/runs/{child}"
            note = f"Best: [job {job}]({link}), {objective} {value:.4f}, {point}. The page: artifact report.html."
            self.tags({"best_run_id": child, "mlflow.note.content": note})

    def finish(self, status: str) -> None:
        """Say how the sweep ended: FINISHED, FAILED or KILLED."""
        self._tell(lambda: self._client.set_terminated(self.run_id, status))

    def _search(self, condition: str) -> list[Run]:
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                f"tags.sweep_id = {_quoted(self._sweep_id)} and {condition}",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _tell(self, message: Callable[[], T]) -> T | None:
        try:
            return message()
        except Exception as error:  # whatever a store does, the sweep goes on
            log.warning("MLflow: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"
