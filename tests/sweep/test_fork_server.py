"""Trials forked from one process: exit codes, environment, isolation, and the end of each of the three processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.config.sweep import LauncherConfig
from tnt_exp.run_folder import RunFolder
from tnt_exp.sweeps import executors
from tnt_exp.sweeps.fork_server import ForkedProcess, ForkServer
from tnt_exp.sweeps.worker import LOG, JobProcess

PROGRAM = [sys.executable, str(Path(__file__).with_name("forks.py"))]


@pytest.fixture
def server() -> Iterator[ForkServer]:
    server = ForkServer("none", program=PROGRAM)
    yield server
    server.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ended(process: ForkedProcess) -> int:
    until(lambda: process.poll() is not None)
    assert process.returncode is not None
    return process.returncode


def test_forks_have_exit_codes_streams_and_environments_of_their_own(server: ForkServer, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    log = tmp_path / "log"
    first = server.start(["print", "a"], log, {"FORK": "1"}, tmp_path / "first")
    assert ended(first) == 1
    assert log.read_text() == f"1 {tmp_path / 'first'} True a\n"
    assert log.stat().st_mode & 0o111 == 0
    second = server.start(["print"], log, {}, tmp_path / "second")
    assert ended(second) == 0
    assert log.read_text().splitlines()[1] == f"None {tmp_path / 'second'} True"
    failed = server.start(["fail"], tmp_path / "failed", {}, tmp_path)
    died = server.start(["die"], tmp_path / "died", {}, tmp_path)
    assert (ended(failed), ended(died)) == (1, -signal.SIGSEGV)
    assert "ValueError: broken" in (tmp_path / "failed").read_text()
    assert len({first.pid, second.pid, failed.pid, died.pid}) == 4
    assert not server.ended


def test_a_fork_that_is_killed_leaves_the_others_alone(server: ForkServer, tmp_path: Path) -> None:
    forks = [server.start(["sleep"], tmp_path / "log", {}, tmp_path) for _ in range(3)]
    forks[0].send_signal(signal.SIGKILL)
    assert ended(forks[0]) == -signal.SIGKILL
    forks[1].send_signal(signal.SIGTERM)
    assert ended(forks[1]) == -signal.SIGTERM
    assert forks[2].poll() is None
    forks[0].send_signal(signal.SIGTERM)  # has ended: nothing
    server.close()
    until(lambda: not psutil.pid_exists(forks[2].pid or 0))


def test_a_signal_that_comes_while_a_fork_begins_reaches_it(server: ForkServer, tmp_path: Path) -> None:
    codes = []
    for _ in range(10):
        fork = server.start(["sleep", "0.2"], tmp_path / "log", {}, tmp_path)
        fork.send_signal(signal.SIGUSR1)
        codes.append(ended(fork))
    assert codes == [75] * 10


def test_a_server_that_is_killed_takes_its_forks_along(server: ForkServer, tmp_path: Path) -> None:
    fork = server.start(["sleep"], tmp_path / "log", {}, tmp_path)
    pid = fork.pid
    assert pid is not None
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    assert ended(fork) == -signal.SIGKILL
    assert server.ended
    never = server.start(["print"], tmp_path / "log", {}, tmp_path)
    assert ended(never) == -signal.SIGKILL
    assert never.pid is None


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.jax)])
def test_trials_compute_and_end_with_the_process_of_the_sweep(backend: str, tmp_path: Path) -> None:
    settings = ["model=tiny", "model.depth=1", "trainer.epochs=1000000", "tracking=off", f"trainer.backend={backend}"]
    RunFolder(tmp_path / "run").write_config(compose(settings), [])
    sweep = (
        "import os, pathlib, sys, time\n"
        "from tnt_exp.sweeps.fork_server import ForkServer\nfrom tnt_exp.sweeps.worker import JobProcess\n"
        "server = ForkServer(sys.argv[2])\nfolder = pathlib.Path(sys.argv[1])\n"
        "job = JobProcess(folder, server=server)\n"
        "while not (folder / 'metrics.csv').exists(): job.poll(); time.sleep(0.1)\n"
        "print(job.pid, flush=True)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", sweep, str(tmp_path / "run"), backend]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout
    job = psutil.Process(int(process.stdout.readline()))
    server = psutil.Process(job.ppid())
    assert server.ppid() == process.pid
    process.kill()
    process.communicate()
    until(lambda: not (job.is_running() or server.is_running()))


def test_a_command_that_cannot_begin_says_why_in_its_log(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    server = ForkServer("tensorflow")
    try:
        job = JobProcess(tmp_path / "run", server=server)
        until(lambda: job.poll() is not None)
        assert "config.yaml" in (tmp_path / "run" / LOG).read_text()
        assert "Traceback" not in (tmp_path / "run" / LOG).read_text()
    finally:
        server.close()


@pytest.mark.parametrize("kind", ["cpu", "gpu", "command"])
def test_trials_are_forked_on_a_cpu_only(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(executors, "ForkServer", lambda backend, environment: begun.append((backend, environment)))
    monkeypatch.setattr(executors, "visible_gpus", lambda: ["0"] if kind == "gpu" else [])

    study = SimpleNamespace(config=lambda trial: compose([f"trainer.backend={trial}"]))
    slots = executors.device_slots(LauncherConfig(slots=2, threads=1))
    config = LauncherConfig(command=["true"] if kind == "command" else None)
    supervisor = executors.JobSupervisor(SimpleNamespace(study=study), slots, config)  # type: ignore[arg-type]
    assert supervisor._server("jax", slots[0]) is None or kind == "cpu"  # type: ignore[arg-type]
    assert [backend for backend, _ in begun] == (["jax"] if kind == "cpu" else [])
    assert all(environment["OMP_NUM_THREADS"] == "1" for _, environment in begun)
