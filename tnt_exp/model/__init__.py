"""The network and what belongs to it: TNT in Keras, its preprocessing, its weights, its costs.

Names are imported when they are first asked for: `tnt_exp.model.counts` needs no Keras, and nobody who
only counts should wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier, build
    from tnt_exp.model.preprocess import Preprocess
    from tnt_exp.model.tnt import TNT

_HOMES = {
    "TNT": "tnt_exp.model.tnt",
    "Preprocess": "tnt_exp.model.preprocess",
    "Classifier": "tnt_exp.model.classifier",
    "build": "tnt_exp.model.classifier",
}

__all__ = ["TNT", "Classifier", "Preprocess", "build"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
