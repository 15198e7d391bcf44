"""One run and one sweep of the shipped configuration, shrunk, for everything that comes after training."""

import json
import subprocess
from pathlib import Path

import preloaded
import pytest

SMALL = ["model=tiny", "trainer.epochs=1", "tracking.system_metrics=false"]


def tnt_exp(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    done = preloaded.run([*arguments], folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one run was trained: mlflow.db and multirun/ are in it."""
    folder = tmp_path_factory.mktemp("trained")
    tnt_exp(folder, "train", *SMALL)
    return folder


@pytest.fixture(scope="session")
def run_folder(working_folder: Path) -> Path:
    (folder,) = (working_folder / "multirun/runs").iterdir()
    return folder


@pytest.fixture(scope="session")
def result(run_folder: Path) -> dict:
    return json.loads((run_folder / "result.json").read_text())
