"""What MLflow is told. The only room that imports mlflow."""

from tnt_exp.tracking.client import resolve_tracking_uri, ui_command
from tnt_exp.tracking.tracker import Tracker, finalize_run, start_run

__all__ = ["Tracker", "finalize_run", "resolve_tracking_uri", "start_run", "ui_command"]
