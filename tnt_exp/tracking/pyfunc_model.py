"""The code of the MLflow model, copied beside it: needs TensorFlow and MLflow, nothing of this package.

Images uint8 (N, height, width, channels) in; class, its probability and the probabilities of all classes out.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
from mlflow.pyfunc import PythonModel


class SavedModelPredictor:
    """A SavedModel with its labels. Not a `PythonModel` itself: one without type hints at `predict` prints a
    warning."""

    def load_context(self, context: Any) -> None:
        """Load the SavedModel and its labels."""
        import tensorflow as tf

        folder = Path(context.artifacts["saved_model"])
        with contextlib.chdir(folder):  # TensorFlow takes [, ? and * in a path for a pattern
            self._serve = tf.saved_model.load(".").signatures["serving_default"]
        self._labels = json.loads((folder / "metadata.json").read_text())["labels"]

    # MLflow would take a type hint of `model_input` for a schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Classify images; return a table with one row per image."""
        import tensorflow as tf

        images = np.asarray(model_input, np.uint8)
        if images.size and images.max() <= 1:  # MLflow has cut floats to whole numbers before they arrive here
            raise mlflow.exceptions.MlflowException.invalid_parameter_value(
                "images: expected numbers from 0 to 255, received none above 1. Multiply floats from 0 to 1 by 255."
            )
        images = tf.constant(images)
        probabilities = self._serve(images=images)["probabilities"].numpy().astype(float)
        return pd.DataFrame(
            {
                "class": [self._labels[index] for index in probabilities.argmax(axis=1)],
                "probability": probabilities.max(axis=1),
                "probabilities": probabilities.tolist(),
            }
        )


class Classifier(SavedModelPredictor, PythonModel):  # type: ignore[misc,unused-ignore]
    """What MLflow calls."""


mlflow.models.set_model(Classifier())
