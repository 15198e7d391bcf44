"""Runs in MLflow: one that trains, and a sweep with its parent run and the trials that could not send everything.

Only MLflow's client is used, never the fluent `mlflow.start_run`: that marks every exception FAILED and a crash
FINISHED, while here the result of a run has its status.
"""

import getpass
import logging
import os
import platform
import shlex
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tnt_exp import provenance
from tnt_exp.atomic_files import JsonObject, atomic_write_json, is_unlocked, read_json
from tnt_exp.config import Config
from tnt_exp.data import Dataset
from tnt_exp.errors import first_line
from tnt_exp.run_folder import SYSTEM_METRICS, RunFolder
from tnt_exp.tracking import models
from tnt_exp.tracking.client import relocated_uri, resolve_tracking_uri
from tnt_exp.tracking.folder_run import now_ms
from tnt_exp.tracking.mirror import Mirror
from tnt_exp.tracking.pages import run_name
from tnt_exp.tracking.record import FILES, MODEL, PARENT, is_tracked, read_reference

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier
    from tnt_exp.tracking.system_metrics import SystemMetrics

log = logging.getLogger("tnt_exp")

_INTERVAL = 10.0  # seconds between two looks at the folder; fewer and larger requests cost less
_MAX_RETRY_INTERVAL = 30.0  # seconds between two attempts
_FINISH_TIMEOUT = 600.0  # seconds that the end of a run waits for a store that keeps accepting
_FINISH_GRACE = {"FINISHED": 30.0, "FAILED": 30.0, "KILLED": 10.0}  # seconds to wait for an unreachable store


class BaseTracker:
    """Has a folder, whose mirror was begun, sent to MLflow at `uri` on a thread of its own. Nothing waits for it."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror, self.uri = mirror, str(mirror.reference["uri"])
        self._stopping, self._grace = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._run_loop, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty as long as the store of a trial does not answer."""
        return str(self._mirror.reference.get("run_id") or "")

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment."""
        return str(self._mirror.reference["experiment_id"])

    def _sync(self) -> Exception | None:
        """Send what MLflow lacks; return the error that stopped it, or None."""
        return self._mirror.sync()

    def _finish(self, status: str) -> None:
        """Wait a limited time until everything is sent, and log what is left."""
        self._grace = _FINISH_GRACE[status]
        self._stopping.set()
        self._thread.join(_FINISH_TIMEOUT)
        if self._mirror.refused:
            log.warning("MLflow refused %d values of this run; the run folder has everything", self._mirror.refused)

    def _run_loop(self) -> None:
        unreachable_since, pause = None, _INTERVAL
        while True:
            ended, begin = self._stopping.wait(pause), time.monotonic()
            error, now = self._sync(), time.monotonic()
            if error is None and unreachable_since is not None:
                log.info("MLflow is reachable again and has everything")
            elif error and unreachable_since is None:
                log.warning("MLflow cannot be reached (%s): the run continues and is sent later", first_line(error))
            unreachable_since = None if error is None else unreachable_since or begin  # a request may hang
            pause = min(2 * pause, _MAX_RETRY_INTERVAL) if error else _INTERVAL
            if ended and unreachable_since is None:
                return
            if self._stopping.is_set() and unreachable_since and now - unreachable_since >= self._grace:
                folder = shlex.quote(str(self._mirror.folder))
                log.warning("MLflow lacks something; `tnt-exp sync %s` sends it", folder)
                return
            time.sleep(2.0 if ended else 0.0)


class Tracker(BaseTracker):
    """Keeps MLflow equal to the folder of a run that trains; the caller adds to `result`, the result so far."""

    def __init__(self, mirror: Mirror, result: JsonObject) -> None:
        self._result, self._status = result, "RUNNING"
        self._system_metrics: SystemMetrics | None = None
        super().__init__(mirror)

    @classmethod
    def open(
        cls, folder: Path, uri: str, experiment: str, name: str, tags: Mapping[str, str], result: JsonObject
    ) -> Self:
        """Resume the MLflow run of a run folder, or create one; raises what `FolderRun.begin` does."""
        mirror = Mirror(folder)
        mirror.begin(uri, experiment, name, {**tags, "run_folder": str(folder)})
        if run_id := mirror.reference["run_id"]:
            result["mlflow_run_id"] = run_id
        return cls(mirror, result)

    def watch_system(self) -> None:
        """Start to record CPU, memory and GPU every few seconds, as `system/...`."""
        from tnt_exp.tracking.system_metrics import SystemMetrics

        self._system_metrics = SystemMetrics(self._mirror.folder / SYSTEM_METRICS)

    def model(self, classifier: "Classifier", example: Any) -> None:
        """Package the saved model so that it loads without this package; the example is an image (1, H, W, C)."""
        folder, versions = self._mirror.folder, self._result["versions"]
        try:
            models.package_model(classifier, example, versions, folder / "model.keras", folder / MODEL)
        except Exception as error:  # the run is complete without it
            log.warning("the model is not logged with MLflow: %s: %s", type(error).__name__, error)

    def finish(self) -> None:
        """Send the result with its final status, and wait a limited time until MLflow has everything."""
        if self._system_metrics is not None:
            self._system_metrics.finish()
        self._status = self._result["status"]
        self._finish(self._status)

    def _sync(self) -> Exception | None:
        return self._mirror.sync({**self._result, "status": self._status})


def start_run(
    config: Config, folder: RunFolder, dataset: Dataset, tags: Mapping[str, str], result: JsonObject
) -> Tracker:
    """Create or resume the MLflow run of a run folder.

    Further tags have a `sweep_id` if the run is a trial of a sweep, and its name; `result` gets `mlflow_run_id`. Raises
    `UserError` if the store cannot be reached.
    """
    all_tags = {
        "dataset": dataset.name,
        "dataset_digest": dataset.digest,
        "model": config.model.name,
        "backend": config.trainer.backend.value,
        "host": platform.node(),
        "mlflow.source.name": "tnt-exp train",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        **provenance.git(),
        **tags,
    }
    name = all_tags.pop("mlflow.runName", config.run.name) or run_name(config.model.name, dataset.name, folder.path)
    name, uri = config.tracking.run_name or name, resolve_tracking_uri(config.tracking.uri)
    tracker = Tracker.open(folder.path, uri, config.tracking.experiment, name, all_tags, result)
    if config.tracking.system_metrics:
        tracker.watch_system()
    return tracker


def finalize_run(run_folder: RunFolder, config: Config, overrides: Sequence[str] | None) -> None:
    """Send what MLflow lacks of a run that has finished.

    Keys of `tracking` may have changed since, and the file of the store may be lost: it is created again.
    """
    folder, before = run_folder.path, run_folder.read_config()
    mirror, reference = Mirror(folder, packages=True), read_reference(folder)
    is_lost = "uri" in reference and relocated_uri(reference["uri"], folder) is None
    if before is not None and (is_lost or before.tracking != config.tracking):
        run_folder.write_config(replace(before, tracking=config.tracking), overrides)
        tags = reference.get("tags", {})
        uri = resolve_tracking_uri(config.tracking.uri) if config.tracking.uri else reference["uri"]
        name = config.tracking.run_name or reference.get("name", folder.name)
        mirror.begin(uri, config.tracking.experiment, name, tags)
    if error := mirror.sync(trust_cursor=True):
        typed = shlex.quote(str(folder))
        log.warning("MLflow cannot be reached (%s): `tnt-exp sync %s` sends the rest", first_line(error), typed)
    elif mirror.sent:
        log.info("MLflow has the rest now%s", f", but refused {mirror.refused} values" if mirror.refused else "")


def _user() -> str:
    """Return the name of the user, or the number in a container where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


class SweepTracker(BaseTracker):
    """Keeps MLflow equal to a sweep folder: the parent run, and the trials that are given to `sync_trials`."""

    def __init__(self, mirror: Mirror) -> None:
        self._trials: dict[Path, None] = {}
        super().__init__(mirror)

    @classmethod
    def open(cls, folder: Path, uri: str, experiment: str, sweep_id: str, tags: Mapping[str, str]) -> Self:
        """Resume the parent run of a sweep folder, or create one; raises what `FolderRun.begin` does."""
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
