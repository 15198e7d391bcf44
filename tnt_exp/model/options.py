"""The configuration's fields as arguments: one name for both, values that Keras can save. Imports no Keras."""

import dataclasses
from enum import Enum
from typing import Any

from tnt_exp.config.model import ModelConfig

PREPROCESS = ("image_size", "mean", "std", "interpolation", "crop_fraction")
# `image_size` is an argument of both; the name and the weights are of neither.
_NOT_NETWORK = {"name", "weights", *PREPROCESS} - {"image_size"}


def network_options(config: ModelConfig) -> dict[str, Any]:
    """The arguments of `TNT` that are in the configuration."""
    return {key: value for key, value in _primitives(config).items() if key not in _NOT_NETWORK}


def preprocess_options(config: ModelConfig) -> dict[str, Any]:
    """The arguments of `Preprocess`."""
    return {key: value for key, value in _primitives(config).items() if key in PREPROCESS}


def _primitives(config: ModelConfig) -> dict[str, Any]:
    return {field.name: _primitive(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _primitive(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return tuple(value) if isinstance(value, list) else value
