"""`tnt-exp ui`: open the MLflow UI with this folder's runs."""

import os
import socket
import sys
import time
import webbrowser
from collections.abc import Sequence

from tnt_exp.cli import ArgumentParser
from tnt_exp.config.validation import store_problem
from tnt_exp.errors import UserError
from tnt_exp.tracking.client import newest_runs_url, resolve_tracking_uri, store_exists

_START_TIMEOUT = 60.0  # seconds


def main(arguments: Sequence[str]) -> int:
    """Replace this process by `mlflow ui` with the store that `tnt-exp train` uses; it serves on localhost only."""
    parser = ArgumentParser(prog="tnt-exp ui", description="Open the MLflow UI on this folder's runs.")
    parser.add_argument("--port", type=int, default=5000, help="port on localhost (default 5000)")
    parser.add_argument("--uri", help="tracking store (default: mlflow.db in this folder)")
    parser.add_argument("--no-open", action="store_true", help="open no browser")
    options = parser.parse_args(list(arguments))
    uri = resolve_tracking_uri(options.uri)
    if (problem := store_problem(uri)) is not None:
        raise UserError(f"--uri: {problem}")
    if options.uri and not store_exists(uri):  # MLflow would create it
        raise UserError(f"--uri: expected a tracking store, found none in {uri}. Correct it.")
    if uri.startswith(("http://", "https://")):  # a server, which has the page
        print(newest_runs_url(uri, uri))
        return 0
    _check_port(options.port)
    environment = dict(os.environ)  # without what is set for short requests of a client
    url = newest_runs_url(uri, f"http://127.0.0.1:{options.port}")
    print(f"in a moment: {url}", flush=True)
    has_display = sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if has_display and not options.no_open:
        _open_later(url, options.port)
    # MLflow's jobs judge answers of language models: five processes that would make its start slower.
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    environment.setdefault("PYTHONWARNINGS", "ignore:starlette.middleware.wsgi")  # MLflow's own, in each process
    command = [sys.executable, "-P", "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    # One process serves one user, and is ready sooner than four.
    os.execve(sys.executable, [*command, "--port", str(options.port), "--workers", "1"], environment)


def _open_later(url: str, port: int) -> None:
    """Open a browser once the port answers, in a process that nothing waits for."""
    if os.fork() == 0:
        if os.fork() == 0:
            end = time.monotonic() + _START_TIMEOUT
            while time.monotonic() < end:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        webbrowser.open(url)
                        break
                time.sleep(0.3)
        os._exit(0)
    os.wait()


def _check_port(port: int) -> None:
    """Raise `UserError` if nothing can be served on a port of this machine."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port: expected a number from 1 to 65535, received {port}.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"--port: expected a free port, received {port}: "
                f"{os.strerror(error.errno or 0)}. Try --port {port + 1}."
            ) from error
