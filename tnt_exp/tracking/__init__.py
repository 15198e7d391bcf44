"""Runs in MLflow. The only package that imports mlflow; its names are imported when they are first used.

README.md beside this file explains how a value reaches MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnt_exp.tracking.client import resolve_tracking_uri, ui_command
    from tnt_exp.tracking.tracker import Tracker, finalize_run, start_run

__all__ = ["Tracker", "finalize_run", "resolve_tracking_uri", "start_run", "ui_command"]

_MODULES = {
    "Tracker": "tracker",
    "finalize_run": "tracker",
    "start_run": "tracker",
    "resolve_tracking_uri": "client",
    "ui_command": "client",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
