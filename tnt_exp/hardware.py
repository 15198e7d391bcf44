"""How many cores there are to use."""

import os


def cpu_count() -> int:
    """CPU cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
