"""Write a model in each format, and verify it with its own runtime.

Keras runs on TensorFlow here.
"""

import hashlib
import inspect
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tnt_exp
from tnt_exp.atomic_files import JsonObject
from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.data.image_files import to_8_bits
from tnt_exp.errors import UserError
from tnt_exp.export import runtime
from tnt_exp.export.formats import GRAPHS
from tnt_exp.model import TNT, Classifier
from tnt_exp.model.classifier import computation, save_weights
from tnt_exp.model.pretrained import save_timm

TOLERANCE = 1e-4  # largest difference of a logit

Write = Callable[[Classifier, JsonObject, Path], None]


def as_float32(classifier: Classifier) -> Classifier:
    """Return the model, computing in float32 and without rematerialisation, as every runtime supports it."""
    network = classifier.network
    if network.dtype_policy.name == "float32" and not network.remat:
        return classifier
    config = {**network.get_config(), "dtype": "float32", "remat": False}
    plain = TNT.from_config(config)
    plain.set_weights(network.get_weights())
    copy = Classifier(classifier.preprocess, plain, classifier.class_names)
    copy.build((None, None, None, config["channels"]))
    return copy


def export_metadata(
    classifier: Classifier,
    image_shape: tuple[int, int, int],
    *,
    run: str,
    mlflow_run_id: str | None,
    metrics: Mapping[str, float],
) -> JsonObject:
    """Return labels, preprocessing, input (height, width, channels), output and the run's metrics as plain values."""
    height, width, channels = image_shape
    preprocess = classifier.preprocess
    return {
        "made_by": f"tnt-exp {tnt_exp.__version__}",
        "run": run,
        "mlflow_run_id": mlflow_run_id,
        "labels": list(classifier.class_names),
        "input": {
            "name": "images",
            "dtype": "uint8",
            "shape": [None, height, width, channels],
            "colour": "RGB" if channels == 3 else "grey",
        },
        "preprocessing": {
            "inside": True,
            "image_size": preprocess.image_size,
            "crop_fraction": preprocess.crop_fraction,
            "interpolation": preprocess.interpolation,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        },
        "output": {"name": "logits", "dtype": "float32", "shape": [None, len(classifier.class_names)]},
        "metrics": {key: value for key, value in metrics.items() if key.startswith("test/")},
    }


def keras(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    """Write `model.keras`, for `tnt_exp.model.load`; labels and preprocessing are part of it."""
    classifier.save(folder / "model.keras")


def safetensors(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    """Write `model.safetensors`, for `model.weights=FILE` and `tnt_exp.model.load`."""
    save_weights(classifier, folder / "model.safetensors")


def savedmodel(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    """Write a TensorFlow SavedModel; its signature takes images of any size and returns logits and probabilities.

    The trials of a sweep trace and write the graph of a network once.
    """
    import tensorflow as tf

    if shared_savedmodel(classifier, folder):
        return
    module = tf.Module()
    module.weights = [variable.value for variable in classifier.weights]
    images = tf.TensorSpec((None, None, None, metadata["input"]["shape"][-1]), tf.uint8, name="images")

    def serve(images: Tensor) -> dict[str, Tensor]:
        logits = classifier(images)
        return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

    module.serve = tf.function(serve, input_signature=[images], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    if graph := _shared_graph(classifier):
        own = graph.with_name(f"{os.getpid()}")  # trials that end at once write it at once
        shutil.copyfile(folder / "saved_model.pb", own)
        own.replace(graph)


def shared_savedmodel(classifier: Classifier, folder: Path) -> bool:
    """Write a SavedModel with the graph that another trial of a sweep has left, on any backend; False: there is none.

    The models differ in their variables only.
    """
    graph = _shared_graph(classifier)
    if graph is None or not graph.exists():
        return False
    import tensorflow as tf
    from keras import ops
    from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

    module = tf.Module()
    module.weights = [tf.Variable(ops.convert_to_numpy(variable)) for variable in classifier.weights]
    tf.train.Checkpoint(module).write(folder / "variables" / "variables")
    shutil.copyfile(graph, folder / "saved_model.pb")
    write_fingerprint(str(folder))
    return True


def _shared_graph(classifier: Classifier) -> Path | None:
    """Return the file that holds the graph of such a network for all trials of a sweep; None: there are no others."""
    if not (folder := os.environ.get(GRAPHS)):
        return None
    arguments = json.dumps(computation(classifier), sort_keys=True)
    return Path(folder) / hashlib.sha256(arguments.encode()).hexdigest()


def litert(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    """Write `model.tflite` with the signature `serving_default`: `images` of any number to `logits`.

    Labels and metadata are a zip archive at its end, where TensorFlow Lite expects them.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    images = tf.TensorSpec(metadata["input"]["shape"], tf.uint8, name="images")
    compute = tf.function(lambda images: classifier(images), input_signature=[images])
    # Variables of Keras would stay variables, which the interpreter reads as uninitialised memory.
    frozen = convert_variables_to_constants_v2(compute.get_concrete_function())
    serve = tf.function(lambda images: {"logits": frozen(images)[0]}, input_signature=[images])
    file = folder / "model.tflite"
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns about variables that no longer exist
    with tempfile.TemporaryDirectory() as saved:
        tf.saved_model.save(tf.Module(), saved, signatures={"serving_default": serve})
        file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "\n".join(metadata["labels"]) + "\n")
        archive.writestr("metadata.json", json.dumps(metadata))


def onnx(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    """Write `model.onnx`; labels and metadata are among its properties."""
    from tnt_exp.export import onnx_graph

    onnx_graph.write(classifier, metadata, folder / "model.onnx")


def onnx_int8(classifier: Classifier, metadata: JsonObject, folder: Path, images: np.ndarray) -> None:
    """Write `model.onnx` with products of int8, calibrated with `images`."""
    from tnt_exp.export import onnx_graph

    onnx_graph.write_int8(classifier, metadata, images, folder / "model.onnx")


def timm(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    Models of timm have no preprocessing inside: `config.json` holds the settings for `timm.data`, and the labels.
    """
    options, preprocess = classifier.network.get_config(), classifier.preprocess
    save_timm(classifier.network, folder / "model.safetensors")
    metadata["preprocessing"] = {**metadata["preprocessing"], "inside": False}
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
            "mean": _per_channel(preprocess.mean, channels),
            "std": _per_channel(preprocess.std, channels),
            "first_conv": "pixel_embed.proj",
            "classifier": "head",
            "label_names": metadata["labels"],
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _per_channel(numbers: Sequence[float], channels: int) -> list[float]:
    return list(numbers) * (channels if len(numbers) == 1 else 1)


def last_line(text: str) -> str:
    """Return the last line of a traceback."""
    return (text.strip().splitlines() or ["nothing"])[-1]


WRITERS: dict[str, Write] = {write.__name__: write for write in (keras, safetensors, savedmodel, litert, onnx, timm)}


@dataclass(frozen=True)
class ExportCheck:
    """The result of verifying an export."""

    logits: np.ndarray  # (N, classes) of all images
    difference: float  # largest of a logit over all images
    milliseconds: float  # median time of one image, on the CPU
    bytes: int  # on the disk


def example_program(format_: str) -> str:
    """Return a program that classifies image files with an export: the code that verifies it, and how to call it."""
    load = inspect.getsource(runtime.RUNTIMES[format_])
    load = load.replace("-> Model:", "-> Callable[[np.ndarray], np.ndarray]:")
    load += f"\n\n{inspect.getsource(to_8_bits)}"
    return f"{_EXAMPLE_HEAD}\n\n{load}\n\n{_EXAMPLE_MAIN.format(name=load.partition('(')[0].removeprefix('def '))}"


_EXAMPLE_HEAD = '''\
"""Classify images: python example.py IMAGE ..."""

import contextlib
import importlib
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
'''
_EXAMPLE_MAIN = """\
if __name__ == "__main__":
    folder = Path(__file__).resolve().parent
    metadata = json.loads((folder / "metadata.json").read_text())
    _, height, width, channels = metadata["input"]["shape"]
    model = {name}(folder)
    for file in sys.argv[1:]:
        image = Image.open(file)
        image.draft(None, (2 * height, 2 * height))
        ImageOps.exif_transpose(image, in_place=True)
        image = to_8_bits(image).convert("RGB" if channels == 3 else "L")
        pixels = np.asarray(ImageOps.fit(image, (width, height)), np.uint8).reshape(1, height, width, channels)
        logits = model(pixels)[0]
        probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        print(file, metadata["labels"][int(probabilities.argmax())], f"{{probabilities.max():.4f}}")
"""


def verify_export(
    format_: str, folder: Path, images: np.ndarray, logits: np.ndarray, tolerance: float = TOLERANCE
) -> ExportCheck:
    """Load an export in a fresh process with its own runtime, and compare its logits with those of the run's model.

    Images are uint8 (N, H, W, C), logits float32 (N, classes).

    Raises:
        UserError: It cannot be loaded, or differs by more than `tolerance`.
    """
    with tempfile.TemporaryDirectory() as temporary:
        given, answers = Path(temporary) / "images.npy", Path(temporary) / "answers.npz"
        np.save(given, images)
        command = [sys.executable, "-P", runtime.__file__, format_, str(folder.resolve()), str(given), str(answers)]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(command, cwd=temporary, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"format={format_}: expected a model that loads, received: {last_line(done.stderr)}")
        with np.load(answers) as found:
            exported_logits, milliseconds = found["logits"], float(found["milliseconds"])
    difference = float(np.abs(exported_logits - logits).max())
    if not difference <= tolerance:  # false for NaN, too
        raise UserError(
            f"format={format_}: expected logits within {tolerance} of the run's model, received a difference of "
            f"{difference:.3g}; nothing was written."
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return ExportCheck(exported_logits, difference, milliseconds, size)
