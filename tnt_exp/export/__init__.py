"""A finished run's model in the formats of other runtimes, each checked by its own runtime in a fresh process."""

from tnt_exp.export.formats import FORMATS, Format, missing

__all__ = ["FORMATS", "Format", "missing"]
