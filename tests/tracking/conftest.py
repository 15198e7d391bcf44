"""Real servers, stores, and fake runs."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import preloaded
import pytest
from tracking.servers import FAKE_RUN, Server

from tnt_exp.tracking.client import init_sqlite_store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """On SQLite, with its tables made; a test that kills it starts it again."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, f"sqlite:///{folder / 'mlflow.db'}")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def fake_run() -> Iterator[Callable[..., preloaded.Process]]:
    """Starts a run that only writes its curve."""
    processes = []

    def start(folder: Path, uri: str, first: int, last: int, pause: float = 0.0) -> preloaded.Process:
        folder.mkdir(exist_ok=True)
        arguments = [str(folder), uri, str(first), str(last), str(pause)]
        processes.append(preloaded.start(arguments, folder, folder / f"output-{len(processes)}.txt", script=FAKE_RUN))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    init_sqlite_store(f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(_store: Path, tmp_path: Path) -> str:
    """A store with its tables, in the folder of the test: to create them takes seconds."""
    shutil.copyfile(_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
