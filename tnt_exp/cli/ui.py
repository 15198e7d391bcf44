"""`tnt-exp ui`: open the MLflow UI with this folder's runs."""

import argparse
import os
import sys
from collections.abc import Sequence

from tnt_exp.tracking.client import resolve_tracking_uri


def main(arguments: Sequence[str]) -> int:
    """Replace this process by `mlflow ui` with the store that `tnt-exp train` uses; it serves on localhost only."""
    parser = argparse.ArgumentParser(prog="tnt-exp ui", description="Open the MLflow UI on this folder's runs.")
    parser.add_argument("--port", type=int, default=5000, help="port on localhost (default 5000)")
    parser.add_argument("--uri", help="tracking store (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    uri = resolve_tracking_uri(options.uri)
    # MLflow's front page shows language models.
    print(f"in a moment: http://127.0.0.1:{options.port}/#/experiments?workflowType=machine_learning", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.execv(sys.executable, [*command, "--port", str(options.port)])
