"""A process in which a backend is loaded, and whose forks are trials: to load it takes seconds each time.

Nothing computes in the server: it has no thread and no device, so that its forks may have both. A fork shares nothing
with the next one, has an exit code of its own, and gives its memory back when it ends.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from tnt_exp.atomic_files import JsonObject
from tnt_exp.export.formats import GRAPHS
from tnt_exp.signals import EXIT_CODES

PROGRAM = (sys.executable, "-P", "-m", "tnt_exp", "run", "--fork-server")

_INTERVAL = 0.02  # seconds between two looks for forks that have ended
# What a trial imports, beside the backend.
_MODULES = (
    *("tnt_exp.run", "tnt_exp.training.trainer", "tnt_exp.evaluation", "tnt_exp.reports.run_figures"),
    *("tnt_exp.tracking.tracker", "tnt_exp.tracking.models", "tnt_exp.export.portable"),
    *("mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.tracing.processor.otel", "opentelemetry.sdk.trace"),
)


class ForkServer:
    """Starts `tnt-exp run` as forks of one process. Nothing waits for it: a fork may not have begun yet.

    The forks end when this process ends, whatever ends it.

    Args:
        backend: Keras backend that the server loads; one that is not installed leads to the message of each command.
        environment: Variables that libraries read when they are loaded.
        program: The command of the server, before backend and number of the connection; None: `PROGRAM`.
    """

    def __init__(
        self, backend: str, environment: Mapping[str, str] | None = None, program: Sequence[str] | None = None
    ) -> None:
        self._connection, theirs = Pipe()
        self._process = subprocess.Popen(
            [*(program or PROGRAM), backend, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,  # of all forks, too: closed by the kernel when this process ends
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self._forks: dict[int, ForkedProcess] = {}
        self._count = 0

    def start(
        self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], cwd: Path, **options: object
    ) -> "ForkedProcess":
        """Start a command in a folder; what it prints is appended to a file. Options are for another program."""
        self._count += 1
        fork = self._forks[self._count] = ForkedProcess(self)
        request = {"number": self._count, "arguments": list(arguments), "environment": dict(environment), **options}
        with contextlib.suppress(OSError):  # the server is gone, which `poll` sees
            self._connection.send_bytes(json.dumps({**request, "log": str(log), "cwd": str(cwd)}).encode())
        return fork

    @property
    def ended(self) -> bool:
        """True if the server is gone."""
        return self._process.poll() is not None

    def receive(self, wait: float | None = 0.0) -> None:
        """Take what the server has sent, and wait for the first message; None: however long that takes."""
        try:
            while self._connection.poll(wait):
                message, wait = json.loads(self._connection.recv_bytes()), 0.0
                if "pid" in message:
                    self._forks[message["number"]].known_pid = message["pid"]
                else:
                    self._forks.pop(message["number"]).returncode = message["code"]
        except (EOFError, OSError):  # the server is gone, and its forks are killed with it
            self._process.wait()
            for fork in self._forks.values():
                fork.returncode = -signal.SIGKILL

    def close(self) -> None:
        """End the server, and the forks that still run."""
        self._connection.close()
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()


class ForkedProcess:
    """A command that a server has forked, with the methods of `subprocess.Popen` that are needed."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self.known_pid: int | None = None  # once the server has sent it
        self.returncode: int | None = None  # minus the number of the signal that killed it; None while it runs

    @property
    def pid(self) -> int | None:
        """The process id, which is that of its group, too; None if it never began."""
        while self.known_pid is None and self.returncode is None:
            self._server.receive(None)
        return self.known_pid

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        self._server.receive()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None and (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def preload(backend: str) -> None:
    """Import what a trial needs, without a device or a thread; a package that is not installed is left to the trial."""
    from tnt_exp import provenance
    from tnt_exp.training.device import load_backend, load_tensorflow

    os.environ["MPLBACKEND"] = "agg"
    with contextlib.suppress(ImportError):
        load_backend(backend)
        importlib.import_module(f"tnt_exp.training.backends.{backend}")
        load_tensorflow()  # for the files of the model, on each backend
    for module in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    with contextlib.suppress(ImportError):  # MLflow lists the modules of all packages, once in a process
        importlib.import_module("mlflow.utils.requirements_utils").warn_dependency_requirement_mismatches(["mlflow"])
    provenance.packages()
    gc.freeze()  # a fork copies each page that it writes to, and the collector writes to all


def serve(number: int) -> JsonObject | None:
    """Fork a process per request until the connection, a file descriptor, is closed; `preload` comes before.

    Return in a fork its request, after its streams, folder and environment were set; in the server None, at the end.
    """
    connection, running = Connection(number), dict[int, int]()
    graphs = tempfile.mkdtemp(prefix="tnt-exp-")
    while True:
        ready, _, _ = select.select([connection], [], [], _INTERVAL if running else None)
        if ready:
            try:
                request = json.loads(connection.recv_bytes())
            except (EOFError, OSError):
                break
            # A signal that reaches the fork before Python is ready in it would be lost: it waits until then.
            signal.pthread_sigmask(signal.SIG_BLOCK, EXIT_CODES)
            pid = os.fork()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, EXIT_CODES)
            if pid == 0:
                connection.close()
                request["environment"][GRAPHS] = graphs
                return _begin(request)
            running[pid] = request["number"]
            _send(connection, number=request["number"], pid=pid)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                _send(connection, number=running.pop(pid), code=os.waitstatus_to_exitcode(status))
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(graphs, ignore_errors=True)
    return None


def _send(connection: Connection, **message: int) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more; the next `recv_bytes` ends the server
        connection.send_bytes(json.dumps(message).encode())


def _begin(request: JsonObject) -> JsonObject:
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["tnt-exp", *request["arguments"]]
    return request
