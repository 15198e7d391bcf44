"""A SavedModel of a model on any backend."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from tnt_exp.atomic_files import JsonObject
from tnt_exp.export import writers
from tnt_exp.export.writers import as_float32, last_line
from tnt_exp.model import Classifier, load

_CONVERTER = """
import sys
import tnt_exp.cli  # as in a command, Keras then imports no packages that are not used
from tnt_exp.training.device import load_backend
load_backend("tensorflow")
from tnt_exp.export.portable import convert
convert(*sys.argv[1:])
"""


def savedmodel(classifier: Classifier, image_shape: Sequence[int], folder: Path) -> None:
    """Create a folder with a SavedModel and `metadata.json` (labels, input); `image_shape` is (H, W, C).

    If Keras does not run on TensorFlow, a fresh process converts the model, of the trials of a sweep only the first.

    Raises:
        RuntimeError: The fresh process failed.
    """
    metadata = {"labels": list(classifier.class_names), "input": {"dtype": "uint8", "shape": [None, *image_shape]}}
    if keras.backend.backend() == "tensorflow":
        _write(classifier, metadata, folder)
        return
    if writers.shared_savedmodel(classifier, folder):
        _write_metadata(metadata, folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        source, metadata_file = Path(temporary) / "source.keras", Path(temporary) / "metadata.json"
        classifier.save(source)
        metadata_file.write_text(json.dumps(metadata))
        command = [sys.executable, "-P", "-c", _CONVERTER, str(source), str(metadata_file), str(folder)]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a SavedModel could not be written: {last_line(done.stderr)}")


def _write(classifier: Classifier, metadata: JsonObject, folder: Path) -> None:
    folder.mkdir(parents=True)
    writers.savedmodel(as_float32(classifier), metadata, folder)
    _write_metadata(metadata, folder)


def _write_metadata(metadata: JsonObject, folder: Path) -> None:
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def convert(source: str, metadata_file: str, folder: str) -> None:
    """Convert a `.keras` file, on TensorFlow."""
    _write(load(source), json.loads(Path(metadata_file).read_text()), Path(folder))
