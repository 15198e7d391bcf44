"""The hardware that a process may use."""

import os
from pathlib import Path


def cpu_count() -> int:
    """Return the number of CPU cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_info(field: str) -> str:
    """Return a field of the first core in Linux' /proc/cpuinfo, such as "flags"; empty where there is none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}\t")), "")
