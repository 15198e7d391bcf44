"""Runs that have ended: found by any reference, their models loaded."""

from tnt_exp.finished_runs.find import find_run, load_model
from tnt_exp.finished_runs.run import FinishedRun, apply_overrides

__all__ = ["FinishedRun", "apply_overrides", "find_run", "load_model"]
