"""Copies runs that have ended to another tracking store: `copy_runs`, idempotent, resumable.

A copy has the tag `copied_from` from the moment it exists, and the status RUNNING until everything else is there. So an
interrupted copy is found again and completed, and no run is copied twice, also on its way back.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from tnt_exp.errors import first_line
from tnt_exp.tracking.client import (
    get_or_create_experiment,
    init_sqlite_store,
    is_permanent_error,
    make_client,
    search_all_runs,
)
from tnt_exp.tracking.mirror import is_same_value
from tnt_exp.tracking.models import add_output, find_logged_model, upload_model

COPIED_FROM = "copied_from"  # tag of a run or a logged model: its id in the store where it began
_PARENT = "mlflow.parentRunId"
_OPEN = ("RUNNING", "SCHEDULED")


@dataclass
class CopyCount:
    """What became of the runs of a store."""

    copied: int = 0
    present: int = 0  # the other store had them
    in_progress: int = 0  # left out, with the other runs of their sweep
    failed: int = 0  # for a reason that would come again
    error: str = ""  # why the rest was not reached


def copy_runs(source_uri: str, target_uri: str, report: Callable[[str], None]) -> CopyCount:
    """Copy all runs that have ended; parent and children together, once all of them have ended.

    The source is not changed; a SQLite file of the target is created. `report` receives a line per run that is copied
    or fails.

    Raises:
        UserError: A store cannot be opened, or the target has a deleted experiment of the same name.
    """
    source, count = make_client(source_uri), CopyCount()
    init_sqlite_store(target_uri)
    target = make_client(target_uri)
    try:
        _copy_groups(source, target, count, report)
    except (MlflowException, OSError) as error:
        count.error = first_line(error)
    return count


def _copy_groups(
    source: mlflow.MlflowClient, target: mlflow.MlflowClient, count: CopyCount, report: Callable[[str], None]
) -> None:
    copy, experiments = StoreCopy(source, target), source.search_experiments()
    names = {each.experiment_id: each.name for each in experiments}
    runs = {run.info.run_id: run for run in search_all_runs(source, list(names))}
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs.values(), key=lambda run: int(run.info.start_time)):
        groups.setdefault(_root(run, runs), []).append(run)
    for group in groups.values():
        if any(run.info.status in _OPEN for run in group):
            count.in_progress += len(group)
            continue
        for run in group:  # all exist before one is filled: tags of a parent name its children
            copy.find_or_create(run, names[run.info.experiment_id])
        for run in group:
            if copy.is_equal(run):
                count.present += 1
                continue
            try:
                copy.fill(run)
                count.copied += 1
                report(f"{run.info.run_id} {run.info.run_name}: copied to {copy.copies[run.info.run_id].info.run_id}")
            except (MlflowException, OSError) as error:
                if not is_permanent_error(error):
                    raise
                count.failed += 1
                report(f"{run.info.run_id} {run.info.run_name}: failed: {first_line(error)}")


def _root(run: Run, runs: Mapping[str, Run]) -> str:
    """Return the id of the parent of all parents, as far as they exist."""
    seen = [run.info.run_id]
    while (parent := runs[seen[-1]].data.tags.get(_PARENT)) in runs and parent not in seen:
        seen.append(parent)
    return str(seen[-1])


class StoreCopy:
    """Copies runs from one store to another."""

    def __init__(self, source: mlflow.MlflowClient, target: mlflow.MlflowClient) -> None:
        self._source, self._target = source, target
        ids = [each.experiment_id for each in target.search_experiments(ViewType.ALL)]
        there = [*search_all_runs(target, ids, view=ViewType.ALL)] if ids else []
        self._there = {run.data.tags.get(COPIED_FROM, run.info.run_id): run for run in there}
        self._experiments: dict[str, str] = {}
        self.copies: dict[str, Run] = {}  # in the target, by the id of the run in the source

    def find_or_create(self, run: Run, experiment: str) -> None:
        """Make sure that the target has the run, empty or not."""
        origin = run.data.tags.get(COPIED_FROM, run.info.run_id)
        if origin not in self._there:
            if experiment not in self._experiments:
                self._experiments[experiment] = get_or_create_experiment(self._target, experiment)
            self._there[origin] = self._target.create_run(
                self._experiments[experiment], run.info.start_time, {COPIED_FROM: origin}, run.info.run_name
            )
        self.copies[run.info.run_id] = self._there[origin]

    def is_equal(self, run: Run) -> bool:
        """Return True if the copy has everything, was deleted in the target, or is where the run began."""
        copy, tags = self.copies[run.info.run_id], self._tags(run)
        if copy.info.lifecycle_stage != "active" or copy.info.run_id == tags[COPIED_FROM]:
            return True
        return (
            (copy.info.status, copy.info.end_time) == (run.info.status, run.info.end_time)
            and run.data.params.items() <= copy.data.params.items()
            and tags.items() <= copy.data.tags.items()
            and run.data.metrics.keys() <= copy.data.metrics.keys()
            and all(is_same_value(value, copy.data.metrics[key]) for key, value in run.data.metrics.items())
        )

    def fill(self, run: Run) -> None:
        """Send what the copy lacks, and last of all its status."""
        target, copy, source_id = self._target, self.copies[run.info.run_id], run.info.run_id
        copy_id, params, tags = copy.info.run_id, copy.data.params, copy.data.tags
        target.log_batch(copy_id, params=[Param(k, v) for k, v in run.data.params.items() if k not in params])
        target.log_batch(copy_id, metrics=list(self._missing_metrics(run, copy)))
        if run.inputs and run.inputs.dataset_inputs:
            target.log_inputs(copy_id, list(run.inputs.dataset_inputs))
        paths = [item.path for item in self._source.list_artifacts(source_id)]
        with tempfile.TemporaryDirectory() as folder:
            for path in paths:
                self._source.download_artifacts(source_id, path, folder)
            if paths:
                target.log_artifacts(copy_id, folder)
        for output in run.outputs.model_outputs if run.outputs else []:
            self._copy_model(self._source.get_logged_model(output.model_id), output.step, run, copy)
        new = [RunTag(key, value) for key, value in self._tags(run).items() if tags.get(key) != value]
        target.log_batch(copy_id, tags=new)
        target.set_terminated(copy_id, run.info.status, run.info.end_time)

    def _missing_metrics(self, run: Run, copy: Run) -> Iterator[Metric]:
        for key in run.data.metrics:
            known: dict[tuple[int, int], list[float]] = {}
            for point in self._target.get_metric_history(copy.info.run_id, key) if key in copy.data.metrics else []:
                known.setdefault((point.timestamp, point.step), []).append(point.value)
            for point in self._source.get_metric_history(run.info.run_id, key):
                values = known.get((point.timestamp, point.step), [])
                if not any(is_same_value(point.value, value) for value in values):
                    yield Metric(key, point.value, point.timestamp, point.step)

    def _copy_model(self, model: LoggedModel, step: int, run: Run, copy: Run) -> None:
        """Copy a logged model with its files, parameters, tags and metrics, and make it an output of the copied run."""
        target, experiment_id, copy_id = self._target, copy.info.experiment_id, copy.info.run_id
        origin = model.tags.get(COPIED_FROM, model.model_id)
        tags = {**{key: self._translated(value) for key, value in model.tags.items()}, COPIED_FROM: origin}
        logged = find_logged_model(target, experiment_id, COPIED_FROM, origin) or target.create_logged_model(
            experiment_id, model.name, copy_id, tags, model.params, model.model_type
        )
        if logged.status != model.status:
            with tempfile.TemporaryDirectory() as folder:
                location, uri = model.artifact_location, self._source.tracking_uri
                files = Path(download_artifacts(artifact_uri=location, dst_path=folder, tracking_uri=uri))
                upload_model(target, logged, copy_id, files)
            target.finalize_logged_model(logged.model_id, model.status)
        own = [point for point in model.metrics or [] if point.run_id in (None, run.info.run_id)]
        points = [
            Metric(p.key, p.value, p.timestamp, p.step, logged.model_id, p.dataset_name, p.dataset_digest) for p in own
        ]
        target.log_batch(copy_id, metrics=points)  # the store knows a value that it has
        add_output(target, target.get_run(copy_id), logged.model_id, step)

    def _tags(self, run: Run) -> dict[str, str]:
        tags = {key: self._translated(value) for key, value in run.data.tags.items()}
        return {**tags, COPIED_FROM: run.data.tags.get(COPIED_FROM, run.info.run_id)}

    def _translated(self, text: str) -> str:
        """Return a text with the ids of the copied runs, and of their experiments, in place of those in the source."""

        def link(match: re.Match[str]) -> str:
            copy = self.copies.get(match[1])
            return f"#/experiments/{copy.info.experiment_id}/runs/{copy.info.run_id}" if copy else match[0]

        text = re.sub(r"#/experiments/\w+/runs/([0-9a-f]{32})", link, text)
        return re.sub(
            r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])",
            lambda match: self.copies[match[0]].info.run_id if match[0] in self.copies else match[0],
            text,
        )
