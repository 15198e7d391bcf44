"""CPU, memory, disk, network and GPU every few seconds.

MLflow's own loop ends for good if the store does not answer once; its monitors are used, its loop is not.
"""

import contextlib
import logging
import threading
from collections.abc import Callable

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

_INTERVAL = 5.0  # seconds


class SystemMetrics:
    """Reads CPU, disk, network and GPU monitors on a thread of its own, and logs values from a first step on."""

    def __init__(self, log_metrics: Callable[[dict[str, float], int], None], step: int) -> None:
        self._log, self._step = log_metrics, step
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(Exception):  # whatever a missing driver raises
            self._monitors.append(GPUMonitor())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Stop."""
        self._stopping.set()
        self._thread.join(_INTERVAL)

    def _run(self) -> None:
        try:
            while True:
                for monitor in self._monitors:
                    monitor.collect_metrics()
                if self._stopping.wait(_INTERVAL):
                    return
                values: dict[str, float] = {}
                for monitor in self._monitors:
                    values |= {f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}
                    monitor.clear_metrics()
                self._log(values, self._step)
                self._step += 1
        except Exception as error:  # a broken monitor must not stop the run
            logging.getLogger("tnt_exp").warning("no more system metrics: %s", error)
