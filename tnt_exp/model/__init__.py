"""The network and what belongs to it: TNT in Keras, its preprocessing, its weights, its costs.

Names are imported when they are first asked for: `tnt_exp.model.cost` needs no Keras, and nobody who only counts
should wait for it. A saved model is read by `tnt_exp.model.load`, or by Keras' own loader once a class was imported
(`from tnt_exp.model import Classifier`).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier, build, load
    from tnt_exp.model.fine_tuning import depth_of, freeze, is_decayed
    from tnt_exp.model.preprocess import Preprocess
    from tnt_exp.model.tnt import TNT

_MODULES = {
    "TNT": "tnt",
    "Preprocess": "preprocess",
    "Classifier": "classifier",
    "build": "classifier",
    "load": "classifier",
    "is_decayed": "fine_tuning",
    "depth_of": "fine_tuning",
    "freeze": "fine_tuning",
}

__all__ = ["TNT", "Classifier", "Preprocess", "build", "depth_of", "freeze", "is_decayed", "load"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
