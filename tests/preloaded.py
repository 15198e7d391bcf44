"""Run `tnt-exp` commands as processes that are forked from one that has imported everything slow.

A command of its own imports TensorFlow, Keras, MLflow and Matplotlib for several seconds each time. Here a server
imports them once, before it has devices or threads of its own, and every command is a fork of it: a process with its
own working folder, environment, standard streams and exit code, which shares nothing with the next one. Tests of
kills, of other backends and of the start itself start real processes.
"""

import array
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HEADER = 8  # bytes: the length of a message
_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def run(
    arguments: list[str],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 280,
) -> subprocess.CompletedProcess[str]:
    """Run `tnt-exp ARGUMENTS` in a folder on TensorFlow, and return its exit code and output.

    Raises:
        subprocess.TimeoutExpired: It took longer than `timeout` seconds, and was killed.
    """
    process, connection = _started()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        request = {"arguments": arguments, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        _send(connection, request, [output.fileno(), errors.fileno()])
        pid = _receive(connection)[0]["pid"]
        connection.settimeout(timeout)
        try:
            code = _receive(connection)[0]["code"]
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            connection.settimeout(None)
            _receive(connection)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        finally:
            connection.settimeout(None)
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode())
    assert process.poll() is None
    return subprocess.CompletedProcess(["tnt-exp", *arguments], code, *texts)


def _started() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Return the server of this process, which is started by the first command."""
    global _server
    if _server is None:
        here, there = socket.socketpair()
        process = subprocess.Popen([sys.executable, __file__, str(there.fileno())], pass_fds=[there.fileno()])
        there.close()
        _server = process, here
        atexit.register(_stop, process, here)
    return _server


def _stop(process: subprocess.Popen[bytes], connection: socket.socket) -> None:
    connection.close()  # ends the server
    process.wait()


def _send(connection: socket.socket, message: Any, files: list[int] | None = None) -> None:
    data = json.dumps(message).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    connection.sendmsg([len(data).to_bytes(_HEADER, "big")], rights)
    connection.sendall(data)


def _receive(connection: socket.socket) -> tuple[Any, list[int]]:
    header, files, _, _ = socket.recv_fds(connection, _HEADER, 2)
    if not header:
        raise EOFError
    length, data = int.from_bytes(header, "big"), b""
    while len(data) < length:
        data += connection.recv(length - len(data))
    return json.loads(data), files


def _serve(connection: socket.socket) -> None:
    """Import everything, and run the commands of a connection one after the other until it is closed."""
    _preload()
    while True:
        try:
            request, files = _receive(connection)
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            _run_command(request, files)
        for file in files:
            os.close(file)
        _send(connection, {"pid": pid})
        _send(connection, {"code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


def _preload() -> None:
    import tnt_exp.cli
    from tnt_exp.training import device

    os.environ["KERAS_BACKEND"] = "tensorflow"
    with device._quiet(), device._without_optional_packages("tensorflow"):
        import keras  # noqa: F401
    os.environ["MPLBACKEND"] = "agg"
    import mlflow.pyfunc  # noqa: F401

    import tnt_exp.cli.evaluate
    import tnt_exp.cli.train
    import tnt_exp.experiment
    import tnt_exp.finished_runs.predict
    import tnt_exp.reports.run_figures
    import tnt_exp.run
    import tnt_exp.tracking.tracker
    import tnt_exp.training.trainer  # noqa: F401


def _run_command(request: Any, files: list[int]) -> None:
    """Be the command, and never return."""
    code = 1
    try:
        os.setsid()
        for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
            os.dup2(file, number)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
        sys.argv = ["tnt-exp", *request["arguments"]]
        from tnt_exp.cli import main

        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        with contextlib.suppress(Exception):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
