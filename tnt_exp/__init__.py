"""Compose an experiment from YAML groups, train a Keras TNT, find every run in MLflow. docs/python.md has examples."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnt_exp.api import RunFailedError, compose, sweep, train
    from tnt_exp.config import Config
    from tnt_exp.errors import UserError
    from tnt_exp.finished_runs.collection import Run, RunCollection, runs
    from tnt_exp.finished_runs.comparison import Comparison, compare
    from tnt_exp.finished_runs.find import load_model as load

__all__ = [
    "Comparison",
    "Config",
    "Run",
    "RunCollection",
    "RunFailedError",
    "UserError",
    "__version__",
    "compare",
    "compose",
    "load",
    "runs",
    "sweep",
    "train",
]
__version__ = "0.1.0"

_MODULES = {
    "Config": "tnt_exp.config",
    "UserError": "tnt_exp.errors",
    **dict.fromkeys(["RunFailedError", "compose", "sweep", "train"], "tnt_exp.api"),
    **dict.fromkeys(["Run", "RunCollection", "runs"], "tnt_exp.finished_runs.collection"),
    **dict.fromkeys(["Comparison", "compare"], "tnt_exp.finished_runs.comparison"),
    "load": "tnt_exp.finished_runs.find",
}


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: the command line must not wait for it.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), "load_model" if name == "load" else name)


def __dir__() -> list[str]:
    return __all__
