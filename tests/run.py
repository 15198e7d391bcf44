"""Run the tests: all of them on TensorFlow, those marked `backend` again on JAX and PyTorch where they are installed.

python tests/run.py            what can be run here; says what was left out
python tests/run.py --all      the same, but leaving something out is a failure (CI)
python tests/run.py fast       a selection of about two minutes, on TensorFlow
python tests/run.py ARGS       pytest arguments, on TensorFlow only
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


# Files that need no training, or little: configuration, data, augmentation, structure, command line.
_FAST = [
    "tests/test_api.py",
    "tests/test_architecture.py",
    "tests/test_atomic_files.py",
    "tests/test_evaluation.py",
    "tests/cli",
    "tests/config",
    "tests/data",
    "tests/finished_runs/test_collection.py",
    "tests/finished_runs/test_comparison.py",
    "tests/augmentation/test_geometry.py",
    "tests/model/test_attention.py",
    "tests/model/test_tnt.py",
    "tests/sweep/test_plan.py",
    "tests/tracking/test_mirror.py",
    "tests/training/test_checkpoint.py",
    "tests/training/test_lr_schedule.py",
]


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def _missing() -> dict[str, str]:
    """Marker: what it needs and lacks."""
    needs = {
        "peers": (_installed("torch", "timm"), "PyTorch and timm (pip install -e '.[peers]')"),
        "openvino": (_installed("openvino"), "OpenVINO (pip install -e '.[openvino]')"),
        "jax": (_installed("jax"), "JAX (pip install -e '.[jax]')"),
        "browser": (shutil.which("chromium") is not None and _installed("selenium"), "Chromium and selenium"),
        "ray": (_installed("ray", "hydra_plugins.hydra_ray_launcher"), "Ray (pip install -e '.[ray]')"),
        "submitit": (
            _installed("submitit", "hydra_plugins.hydra_submitit_launcher"),
            "submitit (pip install -e '.[slurm]')",
        ),
        "postgresql": (
            bool(shutil.which("initdb") or list(Path("/usr/lib/postgresql").glob("*/bin/initdb")))
            and _installed("psycopg2"),
            "PostgreSQL (apt-get install postgresql) and psycopg2 (pip install -e '.[postgresql]')",
        ),
        "notebooks": (
            _installed("nbclient", "nbformat", "ipykernel", "hatchling"),
            "Jupyter's kernel (pip install -e '.[notebooks]')",
        ),
    }
    return {marker: what for marker, (there, what) in needs.items() if not there}


def _pytest(backend: str, arguments: list[str]) -> int:
    print(f"\n== tests on {backend}", flush=True)
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".pytest_cache" / "jax"))
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Everything is kept, however small: tests compile the same small graphs again and again.
        "JAX_COMPILATION_CACHE_DIR": compiled,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    if backend == "jax":  # LLVM's optimizations take a third of the time; tests of whole runs on JAX, above, have them
        environment["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
    # One process per core and one more, because many tests wait for other processes; a file per process, so that its
    # fixtures are made once.
    workers = min(os.cpu_count() or 1, 8) + 1
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        str(workers),
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
        # A process that crashed is a failure at once: given to another, the last test of a file would wait forever.
        "--max-worker-restart=0",
        "--durations=25",
        *arguments,
    ]
    return subprocess.run(command, cwd=_ROOT, env=environment).returncode


def main(arguments: list[str]) -> int:
    """Run, and say what was left out."""
    everything = arguments == ["--all"]
    if arguments == ["fast"]:
        print("a selection; `make test` runs everything")
        return _pytest("tensorflow", _FAST)
    if arguments and not everything:
        return _pytest("tensorflow", arguments)
    missing = _missing()
    chosen = " and ".join(f"not {marker}" for marker in missing)
    codes = [_pytest("tensorflow", ["-m", chosen] if chosen else [])]
    for backend, module in (("jax", "jax"), ("torch", "torch")):
        if _installed(module):
            marked = f"backend and {chosen}" if chosen else "backend"
            codes.append(_pytest(backend, ["-m", marked]))
        else:
            missing[f"backend {backend}"] = f"the package {module}"
    for marker, what in missing.items():
        print(f"left out: tests of `{marker}`, which need {what}")
    failed = any(codes) or (everything and bool(missing))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
