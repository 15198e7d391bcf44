"""Export of a finished run's model to other runtimes, each verified by its runtime in a fresh process."""

from tnt_exp.export.formats import FORMATS, Format, missing

__all__ = ["FORMATS", "Format", "missing"]
