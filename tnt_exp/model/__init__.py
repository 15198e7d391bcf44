"""The network and what belongs to it: TNT in Keras, its preprocessing, its weights, its costs.

Names are imported when they are first used: `tnt_exp.model.cost` needs no Keras, whose import takes seconds. A saved
model is loaded by `tnt_exp.model.load`, or by `keras.saving.load_model` once a class was imported
(`from tnt_exp.model import Classifier`).
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier, build, load
    from tnt_exp.model.fine_tuning import freeze, is_decayed, layer_depth
    from tnt_exp.model.preprocess import Preprocess
    from tnt_exp.model.tnt import TNT

_MODULES = {
    "TNT": "tnt",
    "Preprocess": "preprocess",
    "Classifier": "classifier",
    "build": "classifier",
    "load": "classifier",
    "freeze": "fine_tuning",
    "is_decayed": "fine_tuning",
    "layer_depth": "fine_tuning",
}

__all__ = ["TNT", "Classifier", "Preprocess", "build", "freeze", "is_decayed", "layer_depth", "load"]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
