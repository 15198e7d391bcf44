"""The data sets: one class per kind of source, found by the name of the data set.

A new data set `flowers` is one file, `sources/flowers.py`, with `SOURCES = {"flowers": FlowersSource()}`, and one line
in `tnt_exp.config.dataset.Source`.
"""

from importlib import import_module

from tnt_exp.config.dataset import Source
from tnt_exp.data.sources.source import DatasetSource

__all__ = ["DatasetSource", "get_source"]

# Data sets whose file has another name.
_MODULES = {"digits": "bundled", "cifar10": "cifar", "cifar100": "cifar", "mnist": "mnist", "fashion_mnist": "mnist"}


def get_source(name: Source) -> DatasetSource:
    """Return the source of a data set. Its file is imported only now, because some need slow packages."""
    module = import_module(f"{__name__}.{_MODULES.get(name.value, name.value)}")
    source: DatasetSource = module.SOURCES[name.value]
    return source
