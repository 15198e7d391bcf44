"""A sweep command whose trials are run by fake_train.py."""

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preloaded
import pytest

FAKE_TRAIN = Path(__file__).with_name("fake_train.py")
QUICK = ["model=tiny", "trainer.epochs=1", "schedule.warmup_epochs=0", "tracking=off"]


class Folder:
    """A working folder and the sweeps in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def command(*arguments: str, verb: str = "train") -> list[str]:
        return [verb, *(["-m", *QUICK] if verb == "train" else []), *arguments]

    def run(self, *arguments: str, code: int = 0, verb: str = "train") -> str:
        """Run to the end and return what was printed."""
        done = preloaded.run(self.command(*arguments, verb=verb), self.path, timeout=120, trials=FAKE_TRAIN)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *arguments: str, verb: str = "train") -> preloaded.Process:
        """Start and return at once."""
        output = self.path / f"output-{uuid.uuid4().hex}.txt"
        return preloaded.start(self.command(*arguments, verb=verb), self.path, output, trials=FAKE_TRAIN)

    @property
    def sweeps(self) -> list[Path]:
        return sorted(file.parent for file in self.path.glob("multirun/sweeps/*/sweep.json"))

    @property
    def sweep(self) -> Path:
        (found,) = self.sweeps
        return found

    def study(self) -> dict[str, Any]:
        study: dict[str, Any] = json.loads((self.sweep / "sweep.json").read_text())
        return study

    def results(self) -> dict[int, dict[str, Any]]:
        """Job: result.json, of the only sweep."""
        return {int(file.parent.name): json.loads(file.read_text()) for file in self.sweep.glob("*/result.json")}

    def begins(self) -> dict[int, int]:
        """Job: how often it was started."""
        return {int(file.parent.name): len(file.read_text().splitlines()) for file in self.sweep.glob("*/begins")}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with its tables made, to be copied: making them takes seconds."""
    import mlflow

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session")
def new_folder() -> Callable[[Path, Path], Folder]:
    """Makes a working folder with a copy of a store."""

    def make(path: Path, store: Path) -> Folder:
        shutil.copy(store, path / "mlflow.db")
        return Folder(path)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
