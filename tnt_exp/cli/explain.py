"""`tnt-exp explain`: draw the attention of a finished run's model on an image."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp.errors import UserError
from tnt_exp.finished_runs import find_run
from tnt_exp.finished_runs.find import RUN_HELP
from tnt_exp.training import device

if TYPE_CHECKING:
    import numpy as np

    from tnt_exp.model.classifier import Classifier
    from tnt_exp.reports.attention import AttentionMaps


def main(arguments: Sequence[str]) -> int:
    """Draw the attention on one image and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="tnt-exp explain", description="Attention between the patches of an image and within a patch, one picture."
    )
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument("image", type=Path, help="an image file")
    parser.add_argument("--output", type=Path, help="the picture (default: explained/IMAGE.png in the run folder)")
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    finished = find_run(options.run, options.uri)
    device.check_backend(finished.config.trainer)
    if finished.config.model.inner_blocks == []:
        raise UserError(f"{finished.path}: expected a model with an inner transformer, received one without.")
    from tnt_exp.data.image_files import decode_image

    size, _, channels = finished.image_shape
    image = decode_image(options.image, size, channels)

    from tnt_exp.finished_runs.find import load_for_evaluation
    from tnt_exp.reports.attention import attention_maps

    classifier = load_for_evaluation(finished, finished.config.trainer)
    name, probability, pixels, maps = _attention(classifier, image)
    file = options.output or finished.output / "explained" / f"{options.image.stem}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    attention_maps(pixels, maps, f"{options.image.name}: {name} ({probability:.3f})", file)
    print(f"{probability:.4f}  {name}  {options.image}\nwritten to {file}")
    return 0


def _attention(classifier: "Classifier", image: "np.ndarray") -> "tuple[str, float, np.ndarray, AttentionMaps]":
    """Return the class, its probability, the image as the network sees it in [0, 1], and the attention."""
    import numpy as np
    from keras import ops

    from tnt_exp.reports.attention import AttentionMaps

    preprocess, network = classifier.preprocess, classifier.network
    inputs = preprocess(image[None])
    probabilities = ops.convert_to_numpy(ops.softmax(network(inputs)))[0]
    inner: list[np.ndarray] = []
    outer: list[np.ndarray] = []
    for inner_weights, outer_weights in network.attention_weights(inputs):
        outer.append(np.asarray(ops.convert_to_numpy(outer_weights), np.float64)[0])
        if inner_weights is not None:
            inner.append(np.asarray(ops.convert_to_numpy(inner_weights), np.float64))
    pixels = ops.convert_to_numpy(inputs)[0] * np.asarray(preprocess.std) + np.asarray(preprocess.mean)
    best = int(probabilities.argmax())
    maps = AttentionMaps(outer, inner[-1], class_token=outer[0].shape[-1] > network.geometry.patches)
    return classifier.class_names[best], float(probabilities[best]), pixels, maps
