"""The logits of an exported model by its own runtime: `python runtime.py FORMAT FOLDER IMAGES.npy OUTPUT.npz`.

Run as a file, in a process of its own; imports nothing of this package unless the format is Keras.
"""

import contextlib
import importlib
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

Model = Callable[[np.ndarray], np.ndarray]
_REPEATS = 30
_BATCH = 32


def keras(folder: Path) -> Model:
    """Load with Keras and the layers of this package."""
    from tnt_exp import model

    classifier = model.load(next(folder.glob("model.*")))
    return lambda images: np.asarray(classifier.predict_on_batch(images))


def savedmodel(folder: Path) -> Model:
    """Load with TensorFlow alone."""
    import tensorflow as tf

    with contextlib.chdir(folder):  # TensorFlow takes [, ? and * in a path for a pattern
        serve = tf.saved_model.load(".").signatures["serving_default"]
    return lambda images: serve(images=tf.constant(images))["logits"].numpy()


def litert(folder: Path) -> Model:
    """Load with LiteRT, or its copy inside TensorFlow if the package is not installed."""
    try:
        interpreter_class = importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        import tensorflow as tf

        interpreter_class = tf.lite.Interpreter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the deprecation of that copy
        interpreter = interpreter_class(model_path=str(folder / "model.tflite"))
    serve = interpreter.get_signature_runner("serving_default")
    return lambda images: np.asarray(serve(images=images)["logits"])


def onnx(folder: Path) -> Model:
    """Load with ONNX Runtime."""
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])


def timm(folder: Path) -> Model:
    """Load with timm on PyTorch; images are resized and normalised here as its configuration says."""
    import timm as timm_
    import torch

    model = timm_.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = model.pretrained_cfg
    size, crop, mode = config["input_size"][-1], config["crop_pct"], config["interpolation"]
    mean, std = (torch.tensor(config[key]).reshape(-1, 1, 1) for key in ("mean", "std"))

    def predict(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        if crop < 1 or pixels.shape[-2:] != (size, size):
            resized, short = math.floor(size / crop), min(pixels.shape[-2:])
            height, width = (length * resized // short for length in pixels.shape[-2:])
            pixels = torch.nn.functional.interpolate(pixels, (height, width), mode=mode, antialias=True).clip(0, 255)
            top, left = round((height - size) / 2), round((width - size) / 2)
            pixels = pixels[:, :, top : top + size, left : left + size]
        with torch.inference_mode():
            return np.asarray(model((pixels / 255 - mean) / std))

    return predict


RUNTIMES: dict[str, Callable[[Path], Model]] = {
    "keras": keras,
    "safetensors": keras,
    "savedmodel": savedmodel,
    "litert": litert,
    "onnx": onnx,
    "onnx_int8": onnx,
    "timm": timm,
}


def main(format_: str, folder: Path, images: Path, output: Path) -> None:
    """Write `logits` of all images and `milliseconds`, the median time of one image alone."""
    model, batch = RUNTIMES[format_](folder), np.load(images)
    logits = np.concatenate([model(batch[begin : begin + _BATCH]) for begin in range(0, len(batch), _BATCH)])
    seconds = []
    for repeat in range(_REPEATS + 3):  # the first few warm up
        one = batch[repeat % len(batch)][None]
        begin = time.perf_counter()
        model(one)
        seconds.append(time.perf_counter() - begin)
    np.savez(output, logits=logits, milliseconds=1000 * np.median(seconds[3:]))


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    main(sys.argv[1], *map(Path, sys.argv[2:]))
