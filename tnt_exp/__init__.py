"""Compose an experiment from YAML groups, train a Keras TNT, find every run in MLflow."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnt_exp.finished_runs.find import load_model as load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: the command line must not wait for it.
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tnt_exp.finished_runs.find import load_model

    return load_model
