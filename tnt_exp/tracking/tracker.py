"""One run in MLflow.

Only MLflow's client is used, never the fluent `mlflow.start_run`: that marks every exception FAILED and a crash
FINISHED, while here the caller sets the status of a run.
"""

import getpass
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import mlflow
import numpy as np

from tnt_exp import provenance
from tnt_exp.atomic_files import JsonObject
from tnt_exp.config import Config
from tnt_exp.data import Dataset
from tnt_exp.errors import first_line
from tnt_exp.run_folder import ARTIFACTS, RunFolder, flat
from tnt_exp.tracking import models
from tnt_exp.tracking.client import quote_filter_value, resolve_tracking_uri, resume_or_create_run
from tnt_exp.tracking.outbox import FOLDER, Outbox, RunRef, artifact_messages
from tnt_exp.tracking.relocation import correct_addresses, moved_from
from tnt_exp.tracking.uploader import Uploader, sync

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier
    from tnt_exp.tracking.system_metrics import SystemMetrics


log = logging.getLogger("tnt_exp")

_MAX_VALUE_LENGTH = {"params": 6000, "tags": 8000}  # MLflow's limits, characters
_FINISH_GRACE = {"FINISHED": 30.0, "FAILED": 30.0, "KILLED": 10.0}  # seconds to wait for an unreachable store


class BaseTracker:
    """Appends messages to an outbox and has them uploaded. Nothing waits for the store.

    Args:
        outbox: Of the folder.
        run: The MLflow run.

    Attributes:
        uri: The tracking store.
        run_id: MLflow's id of the run.
    """

    def __init__(self, outbox: Outbox, run: RunRef) -> None:
        self.uri, self.run_id, self._experiment_id = run
        self._outbox = outbox
        self._unqueued: list[JsonObject] = []
        self._uploader = Uploader(outbox, run)
        self._uploader.start()

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._enqueue_values("tags", values)

    def finish(self, status: str) -> None:
        """Set the final status (FINISHED, FAILED or KILLED), and wait a limited time until everything is uploaded."""
        self._enqueue("status", status=status, time=now_ms())
        self._uploader.finish(_FINISH_GRACE[status], self._unqueued)

    def _enqueue(self, kind: str, **content: object) -> None:
        try:
            self._outbox.append(kind, **content)
        except OSError as error:  # a full disk stops the run elsewhere; MLflow should get the reason
            if not self._unqueued:
                log.warning("messages to MLflow cannot be written: %s", error)
            self._unqueued.append({"kind": kind, **content})

    def _enqueue_once(self, kind: str, message_id: str, **content: object) -> None:
        """Enqueue a message, unless an earlier process of the run has."""
        if message_id not in self._outbox.enqueued_ids:
            self._enqueue(kind, id=message_id, **content)

    def _enqueue_values(self, kind: str, values: Mapping[str, object], message_id: str | None = None) -> None:
        """Enqueue parameters or tags; a value that is too long for MLflow becomes an artifact."""
        short = {}
        for key, value in values.items():
            short[key] = str(value)
            if len(short[key]) > _MAX_VALUE_LENGTH[kind]:
                file = f"{kind}/{key}.txt"
                self._enqueue("text", text=short[key], to=file)
                short[key] = f"too long: artifact {file}"
        if message_id is None:
            self._enqueue(kind, values=short)
        else:
            self._enqueue_once(kind, message_id, values=short)


class Tracker(BaseTracker):
    """Logs one run to MLflow."""

    def __init__(self, outbox: Outbox, run: RunRef) -> None:
        super().__init__(outbox, run)
        self._system_metrics: SystemMetrics | None = None

    @classmethod
    def open(cls, folder: Path, uri: str, experiment: str, run_name: str, tags: Mapping[str, str]) -> Self:
        """Resume the run that a run folder names, or create one with a name and tags (`run_folder` is one of them).

        Raises:
            UserError: The store of a new run cannot be reached, or the experiment was deleted (before training begins).
        """
        outbox = Outbox(folder)

        def find(client: mlflow.MlflowClient, experiment_id: str) -> str | None:
            condition = f"tags.run_folder = {quote_filter_value(tags['run_folder'])}"
            found = client.search_runs([experiment_id], condition)
            return str(found[0].info.run_id) if found else None

        def make(client: mlflow.MlflowClient, experiment_id: str) -> str:
            # The tags by which a run is found must be there from the first moment.
            short = {key: value for key, value in tags.items() if len(value) <= _MAX_VALUE_LENGTH["tags"]}
            return str(client.create_run(experiment_id, run_name=run_name, tags=short).info.run_id)

        if moved_from(uri):
            correct_addresses(uri)
            log.info("the project was moved: MLflow finds its artifacts beside %s again", uri)
        run, resumed = resume_or_create_run(outbox, uri, experiment, find, make)
        tracker = cls(outbox, run)
        if resumed:
            tracker._enqueue("status", status="RUNNING")
        tracker._enqueue_values(
            "tags", {key: value for key, value in tags.items() if len(value) > _MAX_VALUE_LENGTH["tags"]}
        )
        return tracker

    def params(self, values: Mapping[str, object]) -> None:
        """Log the flattened configuration, once in the life of a run."""
        self._enqueue_values("params", values, "params")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values at a step, except those that an earlier process has logged: the steps of a metric only grow."""
        new = {key: float(value) for key, value in values.items() if step > self._outbox.last_steps.get(key, step - 1)}
        if new:
            self._enqueue("metrics", time=now_ms(), step=step, values=new)

    def watch_system(self) -> None:
        """Start logging CPU, memory and GPU every few seconds, as `system/...`."""
        from tnt_exp.tracking.system_metrics import SystemMetrics

        step = max((step + 1 for key, step in self._outbox.last_steps.items() if key.startswith("system/")), default=0)
        self._system_metrics = SystemMetrics(self.metrics, step)

    def dataset(self, name: str, digest: str, source: str, context: str, images: Any, labels: Any) -> None:
        """Log a split as an MLflow dataset (its shape and digest, not its pixels)."""
        # MLflow treats splits with one digest as one dataset and keeps only the first.
        digest = f"{digest}-{context}"
        from mlflow.data.code_dataset_source import CodeDatasetSource

        entity = mlflow.data.from_numpy(
            images, CodeDatasetSource({"source": source}), targets=labels, name=name, digest=digest
        )._to_mlflow_entity()
        self._enqueue_once("dataset", f"dataset/{context}", dataset=entity.to_dictionary(), context=context)

    def artifacts(self, names: list[str]) -> None:
        """Log those files and folders of the run folder that exist."""
        for message in artifact_messages(self._outbox.folder, names):
            self._enqueue(**message)

    def model(
        self,
        classifier: "Classifier",
        example: Any,
        requirements: list[str],
        step: int,
        register: str | None,
        metrics: Mapping[str, float],
    ) -> None:
        """Log the classifier as an MLflow model that loads without this package, and register it if asked to.

        Args:
            classifier: The chosen model.
            example: One image, uint8 (1, H, W, C).
            requirements: Its pinned requirements.
            step: The epoch of its weights.
            register: The registered model of which it becomes a version (and `champion`, if it is better); None: none.
            metrics: Of the run; champions are compared by them.
        """
        message_id = f"model/{self.run_id}/{step}"
        if message_id in self._outbox.enqueued_ids:
            return
        path = f"{FOLDER}/model-{step}"
        try:
            models.package_model(classifier, example, requirements, self._outbox.folder / path)
        except Exception as error:  # the run is complete without it
            log.warning("the model is not logged with MLflow: %s: %s", type(error).__name__, error)
            return
        self._enqueue_once("model", message_id, path=path, step=step, register=register, metrics=dict(metrics))

    def finish(self, status: str) -> None:
        """Set the final status, and stop logging system metrics."""
        if self._system_metrics is not None:
            self._system_metrics.finish()
        super().finish(status)


def now_ms() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return int(time.time() * 1000)


def start_run(config: Config, folder: RunFolder, dataset: Dataset, tags: Mapping[str, str]) -> Tracker:
    """Create or resume the MLflow run of a run folder, and log its tags, parameters and data sets.

    `mlflow.json` in the folder names the MLflow run. Further tags have a `sweep_id` if the run is a trial of a sweep.

    Raises:
        UserError: The store cannot be reached.
    """
    tracking = config.tracking
    all_tags = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "model": config.model.name,
        "backend": config.trainer.backend.value,
        "run_folder": str(folder.path),
        "mlflow.source.name": "tnt-exp train",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        **provenance.git(),
        **tags,
    }
    name = tracking.run_name or "_".join(folder.path.parts[-2 if "sweep_id" in tags else -1 :])
    tracker = Tracker.open(folder.path, resolve_tracking_uri(tracking.uri), tracking.experiment, name, all_tags)
    folder.write_tracking(tracker.uri, tracker.run_id)
    tracker.params(flat(config))
    for context, split in (("train", dataset.train), ("validation", dataset.validation), ("test", dataset.test)):
        if split is not None:
            source = config.dataset.path or dataset.name
            # MLflow records type and shape only; the images themselves may be in files.
            images = np.broadcast_to(np.uint8(0), split.images.shape)
            tracker.dataset(dataset.name, dataset.digest, source, context, images, split.labels)
    if tracking.system_metrics:
        tracker.watch_system()
    return tracker


def finalize_run(folder: Path, status: str) -> None:
    """Enqueue what a kill after `result.json`, with this status, prevented, and upload everything that is pending."""
    outbox = Outbox(folder)
    if outbox.run is None:  # MLflow has never heard of it
        return
    if outbox.status != status:
        for message in artifact_messages(folder, ARTIFACTS):
            outbox.append(**message)
        ended = int((folder / "result.json").stat().st_mtime * 1000)
        outbox.append("status", status=status, time=ended)
    pending = outbox.pending_count()
    if not pending:
        return
    if error := sync(folder):
        pending = outbox.pending_count()
        log.warning("MLflow cannot be reached (%s): %d messages are pending in %s", first_line(error), pending, folder)
    else:
        log.info("MLflow has the rest now: %d messages", pending)


def _user() -> str:
    """Return the name of the user, or the number in a container where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
