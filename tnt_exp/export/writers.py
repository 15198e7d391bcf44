"""Write a model in each format. Keras runs on TensorFlow here; ONNX is written by PyTorch in a process of its own."""

# MERGED DOCS:
# """Whether an exported model says what the run's model says."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tnt_exp.errors import UserError
from tnt_exp.export import runtime
from tnt_exp.model import Classifier
from tnt_exp.model.pretrained import save_timm

Write = Callable[[Classifier, dict[str, Any], Path], None]


def keras(classifier: Classifier, about: dict[str, Any], folder: Path) -> None:
    """`model.keras`, to be read with `tnt_exp.model.load`; labels and preprocessing are part of it."""
    classifier.save(folder / "model.keras")


def savedmodel(classifier: Classifier, about: dict[str, Any], folder: Path) -> None:
    """A TensorFlow SavedModel; its signature takes images of any size and gives logits and probabilities."""
    import tensorflow as tf

    images = tf.TensorSpec((None, None, None, about["input"]["shape"][-1]), tf.uint8, name="images")

    def serve(images: Any) -> dict[str, Any]:
        logits = classifier(images)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    module = tf.Module()
    module.weights = [variable.value for variable in classifier.variables]
    module.serve = tf.function(serve, input_signature=[images])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def litert(classifier: Classifier, about: dict[str, Any], folder: Path) -> None:
    """`model.tflite`; labels and metadata are a zip at its end, as TensorFlow Lite's metadata library puts files."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    images = tf.TensorSpec(about["input"]["shape"], tf.uint8, name="images")
    serve = tf.function(lambda images: {"logits": classifier(images)}, input_signature=[images])
    # Keras' variables would stay variables, which the interpreter reads as uninitialised memory.
    frozen = convert_variables_to_constants_v2(serve.get_concrete_function())
    file = folder / "model.tflite"
    logging.getLogger("absl").setLevel(logging.ERROR)  # it asks for the variables that are no more
    file.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "\n".join(about["labels"]) + "\n")
        archive.writestr("metadata.json", json.dumps(about))


def onnx(classifier: Classifier, about: dict[str, Any], folder: Path) -> None:
    """`model.onnx`; labels and metadata are among its properties."""
    source, told = folder / "source.keras", folder / "about.json"
    classifier.save(source)
    told.write_text(json.dumps(about))
    command = [sys.executable, "-m", "tnt_exp.export.onnx_by_torch", str(source), str(told), str(folder / "model.onnx")]
    environment = os.environ | {"KERAS_BACKEND": "torch", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"format=onnx: expected PyTorch to convert the model, received: {last_line(done.stderr)}")
    source.unlink()
    told.unlink()


def timm(classifier: Classifier, about: dict[str, Any], folder: Path) -> None:
    """A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    timm has no preprocessing in its models: `config.json` says what `timm.data` is to do, and the labels.
    """
    options, preprocess = classifier.network.get_config(), classifier.preprocess
    save_timm(classifier.network, folder / "model.safetensors")
    about["preprocessing"] = {**about["preprocessing"], "inside": False}
    channels, size, classes = options["channels"], options["image_size"], options["num_classes"]
    legacy = options["fusion"] == "pixel_norm_dense"
    config = {
        "architecture": "tnt_s_legacy_patch16_224" if legacy else "tnt_s_patch16_224",
        "num_classes": classes,
        "model_args": {
            "img_size": size,
            "in_chans": channels,
            "first_stride": options["stride"],
            "num_heads_inner": options["inner_num_heads"],
            "num_heads_outer": options["num_heads"],
            **{key: options[key] for key in ("patch_size", "embed_dim", "inner_dim", "depth", "mlp_ratio", "qkv_bias")},
        },
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [channels, size, size],
            "fixed_input_size": True,
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_fraction,
            "mean": _one_a_channel(preprocess.mean, channels),
            "std": _one_a_channel(preprocess.std, channels),
            "first_conv": "pixel_embed.proj",
            "classifier": "head",
            "label_names": about["labels"],
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _one_a_channel(numbers: Sequence[float], channels: int) -> list[float]:
    return list(numbers) * (channels if len(numbers) == 1 else 1)


def last_line(text: str) -> str:
    """What a traceback comes down to."""
    return (text.strip().splitlines() or ["nothing"])[-1]


WRITERS: dict[str, Write] = {"keras": keras, "savedmodel": savedmodel, "litert": litert, "onnx": onnx, "timm": timm}

TOLERANCE = 1e-4  # largest difference of a logit


@dataclass(frozen=True)
class ExportCheck:
    """How an export compares.

    Attributes:
        difference: Largest difference of a logit over all images.
        milliseconds: Median time of one image, on the CPU.
        bytes: Size on the disk.
    """

    difference: float
    milliseconds: float
    bytes: int


def verify_export(format_: str, folder: Path, images: np.ndarray, logits: np.ndarray) -> ExportCheck:
    """Load an export in a fresh process by its own runtime and compare.

    Args:
        format_: Name of the format.
        folder: Where it was written.
        images: uint8 (N, H, W, C), real ones.
        logits: float32 (N, classes): what the run's model says of them.

    Raises:
        UserError: It cannot be loaded, or differs by more than `TOLERANCE`.
    """
    with tempfile.TemporaryDirectory() as beside:
        given, answers = Path(beside) / "images.npy", Path(beside) / "answers.npz"
        np.save(given, images)
        command = [sys.executable, "-P", runtime.__file__, format_, str(folder.resolve()), str(given), str(answers)]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(command, cwd=beside, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"format={format_}: expected a model that loads, received: {last_line(done.stderr)}")
        with np.load(answers) as found:
            said, milliseconds = found["logits"], float(found["milliseconds"])
    difference = float(np.abs(said - logits).max())
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise UserError(
            f"format={format_}: expected logits within {TOLERANCE} of the run's model, received a difference of "
            f"{difference:.3g}; nothing was written."
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return ExportCheck(difference, milliseconds, size)
