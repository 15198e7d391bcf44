"""What MLflow is told. The only room that imports mlflow."""

from tnt_exp.tracking.beginning import begin
from tnt_exp.tracking.ending import end
from tnt_exp.tracking.store import tracking_uri, ui_command
from tnt_exp.tracking.tracker import Tracker

__all__ = ["Tracker", "begin", "end", "tracking_uri", "ui_command"]
