"""The model that is trained and saved: 8-bit images in, class scores out. It is built from the section `model`.

Shapes: B batch.
"""

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self, Unpack

import keras
import numpy as np

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.config.model import ModelConfig
from tnt_exp.errors import UserError
from tnt_exp.model import microbatch, weights_file
from tnt_exp.model.preprocess import Preprocess
from tnt_exp.model.pretrained import load_weights, named_weights
from tnt_exp.model.tnt import TNT
from tnt_exp.model.tnt_config import Arguments, LayerOptions, network_options, section_values

_NOT_OF_MODEL = ("name", "trainable", "dtype", "seed", "remat")  # arguments that change nothing in what is computed
PREPROCESS_ARGUMENTS = ("image_size", "mean", "std", "interpolation", "crop_fraction")


@keras.saving.register_keras_serializable(package="tnt_exp")
class Classifier(keras.Model):
    """Preprocessing and network in one, with the names of the classes.

    It turns images (B, height, width, channels), uint8 or floats in 0..255, into logits (B, classes), float32. The
    names are in the order of the logits; empty: not known.

    Raises:
        ValueError: There are not as many names as classes.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        network: TNT,
        class_names: Sequence[str] = (),
        **layer_options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**layer_options, autocast=False)
        if class_names and len(class_names) != network.head.units:
            raise ValueError(
                f"Expected as many class_names as classes, {network.head.units}, received: {len(class_names)} names."
            )
        self.preprocess = preprocess
        self.network = network
        self.class_names = tuple(class_names)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check the channels; the network is built already."""
        self.preprocess.build(input_shape)

    def call(self, images: Tensor, training: bool = False) -> Tensor:
        """Return the logits."""
        return self.network(self.preprocess(images), training=training)

    def predict_step(self, *data: Tensor) -> Tensor:
        """Return the logits of a batch, in microbatches with TensorFlow on a CPU; `predict_on_batch` calls this."""
        if keras.config.backend() != "tensorflow":
            return super().predict_step(*data)
        images, *_ = keras.utils.unpack_x_y_sample_weight(*data)
        streams = 0 if self.jit_compile or images.shape[0] is None else microbatch.parallel_streams()
        count = microbatch.microbatch_count(images.shape[0] or 1, self.network.config.largest_tensor_size, streams)
        share_trace = images.shape[0] != 1  # calls of a shared function are a fifth of one image's time

        def predict(index: Tensor, shared: None, images: Tensor) -> Tensor:
            del index, shared
            return self.network(self.preprocess(images), share_trace=share_trace)

        logits = microbatch.map_microbatches(predict, count, streams, None, images, inline=True)
        return microbatch.merge_microbatches(logits)

    def get_config(self) -> Arguments:
        """Return the arguments."""
        return {
            **super().get_config(),
            "preprocess": keras.saving.serialize_keras_object(self.preprocess),
            "network": keras.saving.serialize_keras_object(self.network),
            "class_names": self.class_names,
        }

    @classmethod
    def from_config(cls, config: Arguments, custom_objects: dict[str, object] | None = None) -> Self:
        """Return the model of `get_config`."""
        for name in ("preprocess", "network"):
            config = {**config, name: keras.saving.deserialize_keras_object(config[name], custom_objects)}
        return cls(**config)


def build(
    config: ModelConfig,
    num_classes: int,
    channels: int,
    *,
    class_names: Sequence[str] = (),
    seed: int = 0,
    remat: bool = False,
) -> Classifier:
    """Build the model of the section `model` with its initial weights (`config.weights` is not read here).

    Raises:
        UserError: Values that do not go together.
    """
    preprocess = {name: value for name, value in section_values(config).items() if name in PREPROCESS_ARGUMENTS}
    try:
        network = TNT(num_classes, channels, **network_options(config), remat=remat, seed=seed, name="tnt")
        model = Classifier(Preprocess(**preprocess, name="preprocess"), network, class_names)
        model.build((None, None, None, channels))
    except ValueError as error:
        raise UserError(f"model: {error}") from error
    return model


def load(path: str | os.PathLike[str]) -> Classifier:
    """Load a model that was saved with `Classifier.save` (.keras) or `save_weights` (.safetensors).

    Raises:
        UserError: The file is missing, damaged, or holds another kind of model.
    """
    if Path(path).suffix == ".safetensors":
        return _load_weights_file(Path(path))
    if not Path(path).is_file():
        raise UserError(f"{path}: expected a saved model (.keras), found no file.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a file that cannot be read.") from error
    if not isinstance(model, Classifier):
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a {type(model).__name__}.")
    return model


def computation(classifier: Classifier) -> Arguments:
    """Return what determines, with the weights, what a model computes."""
    parts = {name: getattr(classifier, name).get_config() for name in ("preprocess", "network")}
    return {name: {key: part[key] for key in part if key not in _NOT_OF_MODEL} for name, part in parts.items()}


def save_weights(classifier: Classifier, path: str | os.PathLike[str]) -> None:
    """Write a model as one .safetensors file, float32, for `load` and for `model.weights`.

    Raises:
        UserError: The name does not end in .safetensors, or the folder cannot be written to.
    """
    header = json.dumps({**computation(classifier), "class_names": classifier.class_names})
    weights = named_weights(classifier.network).items()
    tensors = {name: np.asarray(keras.ops.convert_to_numpy(weight), "float32") for name, weight in weights}
    weights_file.write_state_dict(Path(path), tensors, {weights_file.HEADER: header})


def _load_weights_file(path: Path) -> Classifier:
    header = weights_file.read_header(path)
    if header is None:
        raise UserError(f"{path}: expected a model saved by tnt-exp, received weights alone (use model.weights).")
    try:
        network = TNT(**header["network"], name="tnt")
        classifier = Classifier(Preprocess(**header["preprocess"], name="preprocess"), network, header["class_names"])
        classifier.build((None, None, None, network.config.channels))
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected a model saved by tnt-exp, received a damaged header.") from error
    load_weights(network, path)
    return classifier
