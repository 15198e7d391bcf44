"""The model that is saved: 8-bit images in, class scores out."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import keras

from tnt_exp.config import InputError
from tnt_exp.config.model import ModelConfig
from tnt_exp.model import parts
from tnt_exp.model.options import network_options, preprocess_options
from tnt_exp.model.preprocess import Preprocess
from tnt_exp.model.tnt import TNT


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
        streams = 0 if self.jit_compile or images.shape[0] is None else parts.streams()
        number = parts.count(images.shape[0] or 1, self.network.most_values, streams)
        found = parts.side_by_side(lambda part, _, some: self(some, training=False), number, streams, None, images)
        return parts.joined(found)

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
        InputError: Values that do not go together.
    """
    try:
        network = TNT(num_classes, channels, **network_options(config), remat=remat, seed=seed, name="tnt")
        model = Classifier(Preprocess(**preprocess_options(config), name="preprocess"), network, class_names)
        model.build((None, None, None, channels))
    except ValueError as error:
        raise InputError(f"model: {error}") from error
    return model


def load(path: str | os.PathLike[str]) -> Classifier:
    """A model that was saved with `Classifier.save`.

    Raises:
        InputError: The file is missing, damaged, or holds another kind of model.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: expected a saved model (.keras), found no file.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected a model saved by tnt-exp, received a file that cannot be read.") from error
    if not isinstance(model, Classifier):
        raise InputError(f"{path}: expected a model saved by tnt-exp, received a {type(model).__name__}.")
    return model
