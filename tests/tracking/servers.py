"""Real servers, and what runs have logged there."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import preloaded
from mlflow.entities import Run

FAKE_RUN = Path(__file__).with_name("fake_run.py")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """`mlflow server` with proxied artifacts; it can be killed and started again in the same place."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store, self.port = folder, store, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--workers", "1"]
        command += ["--serve-artifacts", "--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.txt").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # as `tnt-exp ui`
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + 200
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def ended(process: preloaded.Process) -> str:
    """What a process printed that ended well."""
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    return output


def sync(*folders: Path, code: int = 0) -> str:
    done = preloaded.run(["sync", *map(str, folders)], Path.cwd())
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def runs(uri: str) -> list[Run]:
    client = mlflow.MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def points(uri: str, run: Run, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value) for point in history)


def assert_complete(uri: str, run: Run, last: int) -> None:
    """Every point of a fake run, once."""
    assert points(uri, run, "train/loss") == [(step, 1 / step) for step in range(1, last + 1)]
    assert points(uri, run, "val/loss") == [(step, 2 / step) for step in range(1, last + 1)]
    assert run.data.params == {"model.depth": "3", "seed": "0"}
    assert run.info.status == "FINISHED"
