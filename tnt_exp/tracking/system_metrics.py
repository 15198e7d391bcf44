"""CPU, memory, disk, network and GPU, every few seconds.

MLflow's own loop ends for good when the store does not answer once; its gauges are used, not the loop.
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
    """Reads the gauges on a thread of its own.

    Args:
        say: Takes values and a step.
        step: The first step.
    """

    def __init__(self, say: Callable[[dict[str, float], int], None], step: int) -> None:
        self._say, self._step = say, step
        self._gauges: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(Exception):  # whatever a driver does that is not there
            self._gauges.append(GPUMonitor())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system metrics", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """End."""
        self._ending.set()
        self._thread.join(_INTERVAL)

    def _work(self) -> None:
        try:
            while True:
                for gauge in self._gauges:
                    gauge.collect_metrics()
                if self._ending.wait(_INTERVAL):
                    return
                values = {f"system/{key}": value for gauge in self._gauges for key, value in self._read(gauge).items()}
                self._say(values, self._step)
                self._step += 1
        except Exception as error:  # a gauge that breaks stops no run
            logging.getLogger("tnt_exp").warning("no more system metrics: %s", error)

    def _read(self, gauge: BaseMetricsMonitor) -> dict[str, float]:
        values: dict[str, float] = gauge.aggregate_metrics()
        gauge.clear_metrics()
        return values
