"""CPU, memory, disk, network and GPU every few seconds.

MLflow's own loop ends for good if the store does not answer once; its monitors are used, its loop is not.
"""

import contextlib
import json
import logging
import threading
import time
from pathlib import Path

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

_INTERVAL = 5.0  # seconds


class SystemMetrics:
    """Reads CPU, disk, network and GPU monitors on a thread of its own, and appends their values to a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._step = file.read_bytes().count(b'{"time"') if file.exists() else 0
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(Exception):  # whatever a missing driver raises
            self._monitors.append(GPUMonitor())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system metrics", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Stop, with a last row: however short a run is, it has one."""
        self._stopping.set()
        self._thread.join(_INTERVAL)

    def _run(self) -> None:
        try:
            for monitor in self._monitors:  # percentages are those since the last call on the same thread
                monitor.collect_metrics()
                monitor.clear_metrics()
            stopping = False
            while not stopping:
                stopping = self._stopping.wait(_INTERVAL)
                values: dict[str, float] = {}
                for monitor in self._monitors:
                    monitor.collect_metrics()
                    values |= {f"system/{key}": value for key, value in monitor.aggregate_metrics().items()}
                    monitor.clear_metrics()
                row = json.dumps({"time": int(1000 * time.time()), "step": self._step, "values": values})
                # A full disk stops the run elsewhere. The first line end: a kill may have cut the line before.
                with contextlib.suppress(OSError), self._file.open("a") as stream:
                    stream.write(f"\n{row}\n")
                self._step += 1
        except Exception as error:  # a broken monitor must not stop the run
            logging.getLogger("tnt_exp").warning("no more system metrics: %s", error)
