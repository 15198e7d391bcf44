"""What is exported: the model in float32, and the metadata that its users need."""

from collections.abc import Mapping
from typing import Any

import tnt_exp
from tnt_exp.model import TNT, Classifier


def as_float32(classifier: Classifier) -> Classifier:
    """Return the same model, computing in float32 and without rematerialisation, as every runtime supports it."""
    network = classifier.network
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
) -> dict[str, Any]:
    """Return labels, preprocessing, input and output as plain values.

    Args:
        classifier: The model.
        image_shape: (height, width, channels) of its training images.
        run: Name of the run.
        mlflow_run_id: Id of its MLflow run; None: there is none.
        metrics: Metrics of the run.
    """
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
