"""`tnt-exp ui`: open the MLflow UI with this folder's runs."""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

from tnt_exp.config.validation import store_problem
from tnt_exp.errors import UserError
from tnt_exp.tracking.client import resolve_tracking_uri


def main(arguments: Sequence[str]) -> int:
    """Replace this process by `mlflow ui` with the store that `tnt-exp train` uses; it serves on localhost only."""
    parser = argparse.ArgumentParser(prog="tnt-exp ui", description="Open the MLflow UI on this folder's runs.")
    parser.add_argument("--port", type=int, default=5000, help="port on localhost (default 5000)")
    parser.add_argument("--uri", help="tracking store (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    uri = resolve_tracking_uri(options.uri)
    if (problem := store_problem(uri)) is not None:
        raise UserError(f"--uri: {problem}")
    _check_port(options.port)
    # MLflow's front page shows language models.
    print(f"in a moment: http://127.0.0.1:{options.port}/#/experiments?workflowType=machine_learning", flush=True)
    # MLflow's jobs judge answers of language models: five processes that would make its start slower.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    command = [sys.executable, "-P", "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(options.port)])


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
