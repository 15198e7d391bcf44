"""Runs that have ended: found by any reference, their models loaded."""

from tnt_exp.finished_runs.find import FinishedRun, apply_overrides, find_run, load_model

__all__ = ["FinishedRun", "apply_overrides", "find_run", "load_model"]
