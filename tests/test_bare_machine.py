"""A machine that has JAX or PyTorch and little else: `tracking=off` trains there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_PROGRAM = """
import importlib.metadata, sys
absent = ("tensorflow", "mlflow", "optuna", "sklearn")
sys.modules.update(dict.fromkeys(absent, None))
here = importlib.metadata.version
def version(name):
    if name in absent:
        raise importlib.metadata.PackageNotFoundError(name)
    return here(name)
importlib.metadata.version = version
from tnt_exp.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    "backend", [pytest.param("jax", marks=pytest.mark.jax), pytest.param("torch", marks=pytest.mark.peers)]
)
def test_run_needs_neither_tensorflow_nor_mlflow(tmp_path: Path, backend: str) -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (120, 8, 8, 1), dtype=np.uint8), np.arange(120) % 10
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    settings = ["model=tiny", "dataset=npz", "dataset.path=images.npz", "run.name=bare", "tracking=off"]
    settings += [f"trainer.backend={backend}", "trainer.epochs=1", "trainer.batch_size=16"]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", _PROGRAM, *settings],
        cwd=tmp_path,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "multirun/runs/bare/result.json").read_text())
    assert result["status"] == "FINISHED"
    assert "tensorflow" not in result["versions"]
    assert (tmp_path / "multirun/runs/bare/model.keras").exists()
