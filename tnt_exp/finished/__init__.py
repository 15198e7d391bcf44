"""Runs that have ended: found by whatever names them, their models loaded."""

from tnt_exp.finished.finding import find
from tnt_exp.finished.loading import load
from tnt_exp.finished.overriding import overridden
from tnt_exp.finished.run import FinishedRun

__all__ = ["FinishedRun", "find", "load", "overridden"]
