"""One run in MLflow.

Only the client is used, never the fluent `mlflow.start_run`: that one marks every exception FAILED and a crash
FINISHED, and here a run's state is said by whoever knows it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tnt_exp.config import InputError
from tnt_exp.tracking.creation import make_store
from tnt_exp.tracking.experiments import experiment_id

log = logging.getLogger("tnt_exp")
T = TypeVar("T")

_LONGEST_PARAM = 6000


class Tracker:
    """Tells MLflow of one run. A store that fails is warned about and never stops the run.

    Args:
        uri: Tracking store.
        experiment: Name; created when new.
        run_name: Name of the run.
        tags: Tags of the run.
        run_id: A run to go on with; a new one is created where it is gone.

    Attributes:
        uri: The tracking store.
        run_id: MLflow's id of the run.
        continued: Whether the run was there before.

    Raises:
        InputError: The store cannot be reached or the experiment was deleted: found before training begins.
    """

    def __init__(
        self, uri: str, experiment: str, run_name: str, tags: Mapping[str, str], run_id: str | None = None
    ) -> None:
        self.uri = uri
        self._told = 0
        try:
            make_store(uri)
            mlflow.set_tracking_uri(uri)
            self._client = mlflow.MlflowClient(uri)
            self._experiment_id = experiment_id(self._client, uri, experiment)
            found = self._find(run_id)
            self.continued = found is not None
            self.run_id: str = found or self._create(run_name, tags)
        except (MlflowException, OSError) as error:
            raise InputError(
                f"tracking.uri: expected a tracking store, received {uri}: {str(error).splitlines()[0]} "
                "(tracking=off trains without)."
            ) from error
        self._monitor: Any = None
        self._failed = 0

    def _find(self, run_id: str | None) -> str | None:
        """The run to go on with, marked RUNNING again, and how far it was told."""
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException:
            return None
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        told = self._client.get_metric_history(run_id, "train/loss")
        self._told = max((point.step for point in told), default=0)
        return run_id

    def _create(self, run_name: str, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment_id, run_name=run_name, tags=dict(tags))
        return str(run.info.run_id)

    def epoch(self, values: Mapping[str, float], number: int) -> None:
        """Log an epoch's values, unless a former process of the run did."""
        if number > self._told:
            self.metrics(values, step=number)

    def watch_system(self) -> None:
        """Begin to log CPU, memory and GPU every few seconds, as `system/...`."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._monitor = SystemMetricsMonitor(self.run_id, sampling_interval=5, tracking_uri=self.uri)
        self._monitor.start()

    def params(self, values: Mapping[str, Any]) -> None:
        """Log the flattened configuration. A value too long for MLflow is kept whole in `config.yaml`."""
        params = [Param(key, str(value)) for key, value in values.items() if len(str(value)) <= _LONGEST_PARAM]
        self._tell(lambda: self._client.log_batch(self.run_id, params=params))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._tell(lambda: self._client.log_batch(self.run_id, tags=[RunTag(k, str(v)) for k, v in values.items()]))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log values at a step."""
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._tell(lambda: self._client.log_batch(self.run_id, metrics=batch))

    def dataset(self, name: str, digest: str, source: str, context: str, images: Any, labels: Any) -> None:
        """Log a split as an MLflow dataset (its shape and digest, not its pixels)."""
        from mlflow.data.code_dataset_source import CodeDatasetSource

        dataset = mlflow.data.from_numpy(
            images, CodeDatasetSource({"source": source}), targets=labels, name=name, digest=digest
        )
        entity = mlflow.entities.DatasetInput(
            dataset._to_mlflow_entity(), [mlflow.entities.InputTag("mlflow.data.context", context)]
        )
        self._tell(lambda: self._client.log_inputs(self.run_id, [entity]))

    def artifacts(self, folder: Path, names: list[str]) -> None:
        """Log files and folders of the run folder, those that exist."""
        for name in names:
            path = folder / name
            if path.is_dir():
                self._tell(lambda path=path, name=name: self._client.log_artifacts(self.run_id, str(path), name))  # type: ignore[misc]
            elif path.exists():
                self._tell(lambda path=path: self._client.log_artifact(self.run_id, str(path)))  # type: ignore[misc]

    def model(
        self,
        classifier: Any,
        example: Any,
        requirements: list[str],
        register: str | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Log the classifier as an MLflow model that needs nothing of this package; register it where asked.

        Args:
            classifier: The chosen model.
            example: An image, uint8 (1, H, W, C).
            requirements: What it needs, pinned.
            register: Registered model that it becomes a version of, `champion` if it is better; None: none.
            metrics: Of the run; what champions are compared by.
        """

        def log_and_register() -> None:
            from tnt_exp.tracking import model

            model_id = model.log_model(self._client, self.run_id, classifier, example, requirements)
            if register:
                model.register(self._client, self.run_id, model_id, register, metrics or {})

        self._tell(log_and_register)

    def finish(self, status: str) -> None:
        """Say how the run ended: FINISHED, FAILED or KILLED."""
        if self._monitor is not None:
            self._monitor.finish()
        self._tell(lambda: self._client.set_terminated(self.run_id, status))
        if self._failed:
            log.warning("MLflow missed %d messages of this run; the run folder has everything.", self._failed)

    def _tell(self, message: Callable[[], T]) -> T | None:
        try:
            return message()
        except Exception as error:  # whatever a store does, training goes on
            self._failed += 1
            log.warning("MLflow: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
            return None
