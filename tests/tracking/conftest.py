"""Real servers, and runs that only talk."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tracking.servers import TALKER, Server


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
def talk() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run that only talks."""
    processes = []

    def start(folder: Path, uri: str, first: int, last: int, pause: float = 0.0) -> subprocess.Popen[str]:
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(TALKER), str(folder), uri, str(first), str(last), str(pause)]
        processes.append(
            subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()
