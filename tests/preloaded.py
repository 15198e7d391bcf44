"""Run `tnt-exp` commands as processes that are forked from one that has imported everything slow.

A command of its own imports TensorFlow, Keras, MLflow and Matplotlib for several seconds each time. Here they are forks
of a server, as the trials of a sweep are (`tnt_exp/sweeps/fork_server.py`): each has its own working folder,
environment, standard streams and exit code, shares nothing with the next one and can be killed. Tests of other backends
and of the start itself start a new interpreter.
"""

import atexit
import contextlib
import importlib
import os
import resource
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import stub_step

from tnt_exp.sweeps import fork_server

_server: fork_server.ForkServer | None = None


class Process:
    """A command that runs, with the methods of `subprocess.Popen` that the tests need."""

    def __init__(self, fork: fork_server.ForkedProcess, output: Path) -> None:
        self._fork, self._output = fork, output
        self.poll, self.send_signal = fork.poll, fork.send_signal

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.poll()

    def wait(self, timeout: float = 280) -> int:
        """Wait until it ends, and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It runs for longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self._fork.pid), timeout)
            time.sleep(0.01)
        return code

    def communicate(self, timeout: float = 280) -> tuple[str, None]:
        """Wait until it ends, and return what it printed."""
        self.wait(timeout)
        return self._output.read_text(), None

    def kill(self) -> None:
        """Kill it and all that it has started."""
        if (pid := self._fork.pid) is not None:  # 0 would be the group of the tests
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def start(
    arguments: list[str],
    cwd: Path,
    output: Path,
    errors: Path | None = None,
    env: Mapping[str, str] | None = None,
    stub: bool = False,
    limits: Mapping[int, int] | None = None,
    trials: Path | None = None,
    script: Path | None = None,
) -> Process:
    """Start `tnt-exp ARGUMENTS` in a folder on TensorFlow; its output is appended to files.

    Args:
        arguments: Of the command.
        cwd: The folder.
        output: For standard output.
        errors: For standard error; None: `output`.
        env: The environment; None: that of the test.
        stub: The training step computes nothing, and nothing is drawn (`stub_step.py`): for tests of what becomes of
            files, commands and stores, where the values do not matter.
        limits: `resource.RLIMIT_...`: the limit.
        trials: The script that runs the trials of a sweep, which are fakes.
        script: Run this script instead of `tnt-exp`.
    """
    global _server
    if _server is None:
        stores = tempfile.mkdtemp()
        program = [sys.executable, __file__, stores]
        _server = fork_server.ForkServer("tensorflow", program=program)
        atexit.register(shutil.rmtree, stores)
        atexit.register(_server.close)
    assert not _server.ended
    options = {"errors": str(errors or output), "stub": stub, "limits": list((limits or {}).items())}
    options |= {"trials": trials and str(trials), "script": script and str(script)}
    return Process(_server.start(arguments, output, os.environ if env is None else env, cwd, **options), output)


def run(
    arguments: list[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 280,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `tnt-exp ARGUMENTS` as `start` does, and return its exit code and output.

    Raises:
        subprocess.TimeoutExpired: It took longer than `timeout` seconds, and was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "output", Path(folder) / "errors"
        process = start(arguments, cwd, output, errors, env, **options)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(["tnt-exp", *arguments], code, output.read_text(), errors.read_text())


def preload(backend: str) -> None:
    """Import what commands need that are not trials of a sweep, too."""
    importlib.import_module("tnt_exp.cli")  # first, as in each command
    fork_server.preload(backend)
    for name in ("cli.evaluate", "cli.train", "finished_runs.predict", "tracking.doctor", "training.trainer"):
        importlib.import_module(f"tnt_exp.{name}")


def _copy_store(kept: Path) -> None:
    """Let new SQLite stores be copies of the first: MLflow takes more than a second to create the tables of each."""
    from tnt_exp.tracking import client

    create = client.init_sqlite_store

    def copy(uri: str) -> None:
        file = client.sqlite_file(uri)
        if file is None or client.store_exists(uri) or not file.parent.is_dir():
            return
        if not kept.exists():
            create(uri)
            beside = kept.with_name(str(os.getpid()))
            shutil.copyfile(file, beside)
            beside.replace(kept)
            return
        part = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            shutil.copyfile(kept, part)
        except OSError:
            return create(uri)  # which says what is wrong
        with contextlib.closing(sqlite3.connect(part)) as database, database:
            where = str(Path("mlruns/0").absolute())
            database.execute("UPDATE experiments SET artifact_location = ?", (where,))
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(part, file)
        part.unlink()

    client.init_sqlite_store = copy


def _begin(request: Any) -> None:
    """Complete what a fork needs before its command."""
    errors = os.open(request["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    null = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((null, 0), (errors, 2)):
        os.dup2(file, number)
        os.close(file)
    if request["stub"]:
        stub_step.install()
    for limit, value in request["limits"]:
        resource.setrlimit(limit, (value, resource.RLIM_INFINITY))
    if request["trials"]:
        fork_server.PROGRAM = (sys.executable, request["trials"], "--fork-server")


def main(stores: str, backend: str, connection: str) -> int:
    """Be the server, or one of its forks."""
    preload(backend)
    request = fork_server.serve(int(connection))
    if request is None:
        return 0
    _begin(request)
    if request["script"]:
        sys.argv[0] = request["script"]
        runpy.run_path(request["script"], run_name="__main__")
        return 0
    _copy_store(Path(stores) / "mlflow.db")
    from tnt_exp import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
