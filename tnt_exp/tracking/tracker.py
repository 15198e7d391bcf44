"""One run in MLflow.

Only the client is used, never the fluent `mlflow.start_run`: that one marks every exception FAILED and a crash
FINISHED, and here a run's state is said by whoever knows it.
"""

# MERGED DOCS:
# """Tell MLflow that a run begins, or goes on."""
# """Tell MLflow the end of a run whose process did not live to tell it."""

import getpass
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import mlflow
import numpy as np

from tnt_exp import provenance
from tnt_exp.config import Config
from tnt_exp.data import Dataset
from tnt_exp.run_folder import ARTIFACTS, RunFolder, flat
from tnt_exp.tracking import models, reconcile
from tnt_exp.tracking.client import resolve_tracking_uri, resume_or_create_run
from tnt_exp.tracking.outbox import FOLDER, Outbox, RunRef, artifact_message
from tnt_exp.tracking.uploader import Uploader, first_line, sync

if TYPE_CHECKING:
    from tnt_exp.tracking.system_metrics import SystemMetrics


log = logging.getLogger("tnt_exp")

_MAX_VALUE_LENGTH = {"params": 6000, "tags": 8000}  # characters that MLflow takes

_FINISH_GRACE = {
    "FINISHED": 30.0,
    "FAILED": 30.0,
    "KILLED": 10.0,
}  # seconds that the end waits for a store that is away


class BaseTracker:
    """Says things to a run's spool, and has them delivered. Whatever the store does, nothing waits for it.

    Args:
        spool: Of the folder.
        run: Whom it is about.

    Attributes:
        uri: The tracking store.
        run_id: MLflow's id of the run.
    """

    def __init__(self, spool: Outbox, run: RunRef) -> None:
        self.uri, self.run_id, self._experiment_id = run
        self._spool = spool
        self._unsaid: list[dict[str, Any]] = []
        self._delivery = Uploader(spool, run)
        self._delivery.start()

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._values("tags", values)

    def finish(self, status: str) -> None:
        """Say how it ended: FINISHED, FAILED or KILLED; wait, not for long, until MLflow knows everything."""
        self._say("status", status=status, time=now_ms())
        self._delivery.finish(_FINISH_GRACE[status], self._unsaid)

    def _say(self, kind: str, **content: Any) -> None:
        try:
            self._spool.append(kind, **content)
        except OSError as error:  # a full disk stops the run elsewhere, and MLflow should hear of it
            if not self._unsaid:
                log.warning("messages to MLflow cannot be kept: %s", error)
            self._unsaid.append({"kind": kind, **content})

    def _once(self, kind: str, about: str, **content: Any) -> None:
        """Say what a former process of the run may have said."""
        if about not in self._spool.said:
            self._say(kind, id=about, **content)

    def _values(self, kind: str, values: Mapping[str, Any], about: str | None = None) -> None:
        """Say parameters or tags; a value that is too long for MLflow is a file there."""
        short = {}
        for key, value in values.items():
            short[key] = str(value)
            if len(short[key]) > _MAX_VALUE_LENGTH[kind]:
                file = f"{kind}/{key}.txt"
                self._say("text", text=short[key], to=file)
                short[key] = f"too long: artifact {file}"
        if about is None:
            self._say(kind, values=short)
        else:
            self._once(kind, about, values=short)


class Tracker(BaseTracker):
    """Tells MLflow of one run."""

    def __init__(self, spool: Outbox, run: RunRef) -> None:
        super().__init__(spool, run)
        self._system: SystemMetrics | None = None

    @classmethod
    def open(cls, folder: Path, uri: str, experiment: str, run_name: str, tags: Mapping[str, str]) -> Self:
        """Go on with the run that a folder tells of, or begin one.

        Args:
            folder: The run folder.
            uri: Tracking store.
            experiment: Name; created when new.
            run_name: Name of a new run.
            tags: Of a new run; `run_folder` is among them.

        Raises:
            UserError: A new run's store cannot be reached or the experiment was deleted: found before training begins.
        """
        spool = Outbox(folder)

        def find(client: mlflow.MlflowClient, experiment_id: str) -> str | None:
            condition = f"tags.run_folder = {reconcile.quote_filter_value(tags['run_folder'])}"
            found = client.search_runs([experiment_id], condition)
            return str(found[0].info.run_id) if found else None

        def make(client: mlflow.MlflowClient, experiment_id: str) -> str:
            # Tags by which a run is found are there from the first moment.
            short = {key: value for key, value in tags.items() if len(value) <= _MAX_VALUE_LENGTH["tags"]}
            return str(client.create_run(experiment_id, run_name=run_name, tags=short).info.run_id)

        run, there = resume_or_create_run(spool, uri, experiment, find, make)
        tracker = cls(spool, run)
        if there:
            tracker._say("status", status="RUNNING")
        tracker._values("tags", {key: value for key, value in tags.items() if len(value) > _MAX_VALUE_LENGTH["tags"]})
        return tracker

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flattened configuration, once in the life of a run."""
        self._values("params", values, "params")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values at a step, those that no former process of the run has logged: steps of a metric only grow."""
        new = {key: float(value) for key, value in values.items() if step > self._spool.steps.get(key, step - 1)}
        if new:
            self._say("metrics", time=now_ms(), step=step, values=new)

    def watch_system(self) -> None:
        """Begin to log CPU, memory and GPU every few seconds, as `system/...`."""
        from tnt_exp.tracking.system_metrics import SystemMetrics

        step = max((step + 1 for key, step in self._spool.steps.items() if key.startswith("system/")), default=0)
        self._system = SystemMetrics(self.metrics, step)

    def dataset(self, name: str, digest: str, source: str, context: str, images: Any, labels: Any) -> None:
        """Log a split as an MLflow dataset (its shape and digest, not its pixels)."""
        # MLflow takes splits of one digest for one dataset, and forgets all but the first.
        digest = f"{digest}-{context}"
        from mlflow.data.code_dataset_source import CodeDatasetSource

        entity = mlflow.data.from_numpy(
            images, CodeDatasetSource({"source": source}), targets=labels, name=name, digest=digest
        )._to_mlflow_entity()
        self._once("dataset", f"dataset/{context}", dataset=entity.to_dictionary(), context=context)

    def artifacts(self, names: list[str]) -> None:
        """Log files and folders of the run folder, those that exist."""
        for name in names:
            if (self._spool.folder / name).exists():
                self._say(**artifact_message(self._spool.folder, name))

    def model(
        self,
        classifier: Any,
        example: Any,
        requirements: list[str],
        step: int,
        register: str | None,
        metrics: Mapping[str, float],
    ) -> None:
        """Log the classifier as an MLflow model that needs nothing of this package; register it where asked.

        Args:
            classifier: The chosen model.
            example: An image, uint8 (1, H, W, C).
            requirements: What it needs, pinned.
            step: The epoch whose weights it has.
            register: Registered model that it becomes a version of, `champion` if it is better; None: none.
            metrics: Of the run; what champions are compared by.
        """
        about = f"model/{self.run_id}/{step}"
        if about in self._spool.said:
            return
        path = f"{FOLDER}/model-{step}"
        try:
            models.package_model(classifier, example, requirements, self._spool.folder / path)
        except Exception as error:  # the run is complete without it
            log.warning("the model is not logged with MLflow: %s: %s", type(error).__name__, error)
            return
        self._once("model", about, path=path, step=step, register=register, metrics=dict(metrics))

    def finish(self, status: str) -> None:
        """Say how the run ended."""
        if self._system is not None:
            self._system.finish()
        super().finish(status)


def now_ms() -> int:
    """Milliseconds, as MLflow counts."""
    return int(time.time() * 1000)


def start_run(config: Config, folder: RunFolder, dataset: Dataset, tags: Mapping[str, str]) -> Tracker:
    """A tracker of the run that the folder says, or of a new one: with its tags, parameters and data sets.

    Args:
        config: The experiment.
        folder: The run folder; remembers the MLflow run.
        dataset: What is trained on.
        tags: Further tags; `sweep_id` where the run is one of many.

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
        "mlflow.user": getpass.getuser(),
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
            # MLflow notes type and shape: all that it is given of images, which may be in files.
            images = np.broadcast_to(np.uint8(0), split.images.shape)
            tracker.dataset(dataset.name, dataset.digest, source, context, images, split.labels)
    if tracking.system_metrics:
        tracker.watch_system()
    return tracker


def finalize_run(folder: Path, status: str) -> None:
    """Say what a kill between the result and MLflow left unsaid, and deliver what waits.

    Args:
        folder: The run folder, with a result.
        status: What the result says: FINISHED, FAILED or KILLED.
    """
    spool = Outbox(folder)
    if spool.run is None:  # MLflow has never heard of it
        return
    if spool.status != status:
        for name in ARTIFACTS:
            if (folder / name).exists():
                spool.append(**artifact_message(folder, name))
        ended = int((folder / "result.json").stat().st_mtime * 1000)
        spool.append("status", status=status, time=ended)
    waiting = spool.waiting()
    if not waiting:
        return
    if error := sync(folder):
        log.warning("MLflow is away (%s): %d messages wait in %s", first_line(error), spool.waiting(), folder)
    else:
        log.info("MLflow was told the rest: %d messages", waiting)
