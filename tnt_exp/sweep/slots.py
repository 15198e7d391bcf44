"""What of this machine each job gets."""

import os
from dataclasses import dataclass
from pathlib import Path

from tnt_exp.config import InputError
from tnt_exp.config.sweep import LauncherConfig
from tnt_exp.cores import cores

# TensorFlow; OpenMP (PyTorch, OpenBLAS, MKL); XLA on the CPU (JAX).
_THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time.

    Attributes:
        number: From 0.
        environment: Variables of the jobs that run here.
    """

    number: int
    environment: dict[str, str]


def slots(config: LauncherConfig) -> list[Slot]:
    """Share the machine out.

    Raises:
        InputError: More GPUs are asked for than there are.
    """
    there = gpus()
    if config.gpus is not None and config.gpus > len(there):
        raise InputError(f"launcher.gpus: expected at most the {len(there)} that are there, received {config.gpus}.")
    devices = there[: config.gpus] if config.gpus is not None else there
    count = config.slots or max(1, len(devices))
    threads = config.threads or max(1, cores() // count)
    result = []
    for number in range(count):
        environment = {} if count == 1 and config.threads is None else dict.fromkeys(_THREADS, str(threads))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            if count > len(devices):
                environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
                environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        elif config.gpus == 0:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        result.append(Slot(number, environment))
    return result


def gpus() -> list[str]:
    """The GPUs this process may use, as CUDA names them. Found without CUDA, which would take memory of each."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    nvidia = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number in range(len(list(nvidia.iterdir())))] if nvidia.is_dir() else []
