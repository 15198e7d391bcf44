"""What is exported: the model in float32, and what a user of it must know."""

from typing import TYPE_CHECKING, Any

import tnt_exp
from tnt_exp.model import TNT, Classifier

if TYPE_CHECKING:
    from tnt_exp.finished_runs import FinishedRun


def as_float32(classifier: Classifier) -> Classifier:
    """The same model, computing in float32 and without recomputation: what every runtime knows."""
    network = classifier.network
    config = {**network.get_config(), "dtype": "float32", "remat": False}
    plain = TNT.from_config(config)
    plain.set_weights(network.get_weights())
    copy = Classifier(classifier.preprocess, plain, classifier.class_names)
    copy.build((None, None, None, config["channels"]))
    return copy


def export_metadata(finished: "FinishedRun", classifier: Classifier) -> dict[str, Any]:
    """Labels, preprocessing, input and output, as plain values."""
    height, width, channels = finished.image_shape
    preprocess = classifier.preprocess
    return {
        "made_by": f"tnt-exp {tnt_exp.__version__}",
        "run": finished.path.name,
        "mlflow_run_id": finished.mlflow_run_id,
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
        "metrics": {key: value for key, value in finished.result["metrics"].items() if key.startswith("test/")},
    }
