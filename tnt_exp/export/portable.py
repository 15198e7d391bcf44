"""A SavedModel of a model on any backend: `python -m tnt_exp.export.portable SOURCE.keras ABOUT.json FOLDER`."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from tnt_exp.export import writers
from tnt_exp.export.metadata import as_float32
from tnt_exp.model import Classifier, load


def savedmodel(classifier: Classifier, image_shape: Sequence[int], folder: Path) -> None:
    """Write a SavedModel with a `metadata.json` (labels, input) in it.

    Args:
        classifier: The model; where Keras does not run on TensorFlow, a fresh process converts it.
        image_shape: (H, W, C) of the images it was trained on.
        folder: Made here.

    Raises:
        RuntimeError: The fresh process failed.
    """
    about = {"labels": list(classifier.class_names), "input": {"dtype": "uint8", "shape": [None, *image_shape]}}
    if keras.backend.backend() == "tensorflow":
        _write(classifier, about, folder)
        return
    with tempfile.TemporaryDirectory() as beside:
        source, told = Path(beside) / "source.keras", Path(beside) / "about.json"
        classifier.save(source)
        told.write_text(json.dumps(about))
        command = [sys.executable, "-m", "tnt_exp.export.portable", str(source), str(told), str(folder)]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a SavedModel could not be written: {writers.last_line(done.stderr)}")


def _write(classifier: Classifier, about: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True)
    writers.savedmodel(as_float32(classifier), about, folder)
    (folder / "metadata.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    _write(load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3]))
