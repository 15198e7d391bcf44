"""The configuration's fields as arguments: one name for both, values that Keras can save. Imports no Keras."""

# MERGED DOCS:
# """The model that is saved: 8-bit images in, class scores out."""

import dataclasses
import os
import zipfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Self

import keras

from tnt_exp.config.model import ModelConfig
from tnt_exp.errors import UserError
from tnt_exp.model import microbatch
from tnt_exp.model.preprocess import Preprocess
from tnt_exp.model.tnt import TNT

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


@keras.saving.register_keras_serializable(package="tnt_exp")
class Classifier(keras.Model):
    """Preprocessing and network in one, with the names of the classes.

    Args:
        preprocess: What makes network input of images.
        network: What makes logits of that.
        class_names: Names of the classes in the order of the logits; empty: not known.

    Call arguments:
        images: (B, height, width, channels), uint8 or floats in 0..255.
        training: Whether the network drops.

    Returns:
        Logits (B, classes), float32.

    Raises:
        ValueError: There are not as many names as classes.
    """

    def __init__(self, preprocess: Preprocess, network: TNT, class_names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs, autocast=False)
        if class_names and len(class_names) != network.head.units:
            raise ValueError(
                f"Expected as many class_names as classes, {network.head.units}, received: {len(class_names)} names."
            )
        self.preprocess = preprocess
        self.network = network
        self.class_names = tuple(class_names)

    def build(self, input_shape: Any) -> None:
        """Check the channels; the network is built already."""
        self.preprocess.build(input_shape)

    def call(self, images: Any, training: bool = False) -> Any:
        """Classify."""
        return self.network(self.preprocess(images), training=training)

    def predict_step(self, *arguments: Any) -> Any:
        """Classify a batch, which TensorFlow computes in parts on a CPU; Keras' `predict_on_batch` calls it."""
        if keras.config.backend() != "tensorflow":
            return super().predict_step(*arguments)
        images, *_ = keras.utils.unpack_x_y_sample_weight(*arguments)
        streams = 0 if self.jit_compile or images.shape[0] is None else microbatch.parallel_streams()
        number = microbatch.microbatch_count(images.shape[0] or 1, self.network.most_values, streams)
        found = microbatch.map_microbatches(
            lambda part, _, some: self(some, training=False), number, streams, None, images
        )
        return microbatch.merge_microbatches(found)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {
            **super().get_config(),
            "preprocess": keras.saving.serialize_keras_object(self.preprocess),
            "network": keras.saving.serialize_keras_object(self.network),
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """The model of `get_config`."""
        parts = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects) for key in ("preprocess", "network")
        }
        return cls(**{**config, **parts})


def build(
    config: ModelConfig,
    num_classes: int,
    channels: int,
    *,
    class_names: Sequence[str] = (),
    seed: int = 0,
    remat: bool = False,
) -> Classifier:
    """The model of a configuration, with its weights as they start (`config.weights` is not read here).

    Args:
        config: The section `model`.
        num_classes: Classes of the dataset.
        channels: Channels of its images.
        class_names: Names of the classes.
        seed: Seed of weights and dropout.
        remat: See `TNT`.

    Raises:
        UserError: Values that do not go together.
    """
    try:
        network = TNT(num_classes, channels, **network_options(config), remat=remat, seed=seed, name="tnt")
        model = Classifier(Preprocess(**preprocess_options(config), name="preprocess"), network, class_names)
        model.build((None, None, None, channels))
    except ValueError as error:
        raise UserError(f"model: {error}") from error
    return model


def load(path: str | os.PathLike[str]) -> Classifier:
    """A model that was saved with `Classifier.save`.

    Raises:
        UserError: The file is missing, damaged, or holds another kind of model.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: expected a saved model (.keras), found no file.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a file that cannot be read.") from error
    if not isinstance(model, Classifier):
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a {type(model).__name__}.")
    return model
