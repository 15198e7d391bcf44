"""A SavedModel of a model on any backend: `python -m tnt_exp.export.portable SOURCE.keras METADATA.json FOLDER`."""

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
        command = [sys.executable, "-P", "-m", "tnt_exp.export.portable", str(source), str(metadata_file), str(folder)]
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


if __name__ == "__main__":
    _write(load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
