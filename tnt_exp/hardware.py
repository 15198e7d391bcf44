"""The hardware that a process may use."""

import os
import sys
import time
from pathlib import Path


def cpu_count() -> int:
    """Return the number of CPU cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_info(field: str) -> str:
    """Return a field of the first core in Linux' /proc/cpuinfo, such as "flags"; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}\t")), "")


def seconds_since_start() -> float:
    """Return how long this process has been running; on Linux by a clock that nobody sets, to 10 milliseconds."""
    import psutil

    # psutil adds the time of the boot, which Linux rounds to seconds.
    clock, boot = (time.CLOCK_BOOTTIME, psutil.boot_time()) if sys.platform == "linux" else (time.CLOCK_REALTIME, 0.0)
    return max(0.0, time.clock_gettime(clock) - psutil.Process().create_time() + boot)
