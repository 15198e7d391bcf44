"""Where the network looks: a picture of its outer attention."""

from typing import Any

import numpy as np
from keras import ops

from tnt_exp.model.classifier import Classifier
from tnt_exp.model.interpolation import interpolation_matrix
from tnt_exp.model.timm_names import Array

_SIDE = 224  # pixels; smaller images are enlarged in whole steps to at least this


def attention_picture(classifier: Classifier, images: Any, block: int | None = None) -> Array:
    """Each image as the network sees it, and beside it the same, dark where little attention falls.

    The attention of a patch is what the class token pays it, or where there is none what all patches pay it together,
    as an average over the heads.

    Args:
        classifier: A built model.
        images: (B, height, width, channels), uint8 or floats in 0..255.
        block: The block, counted from 1; None: the last.

    Returns:
        uint8 (B, side, 2 side, 3), side at least 224.

    Raises:
        ValueError: There is no such block.
    """
    network, preprocess = classifier.network, classifier.preprocess
    depth = len(network.blocks)
    if block is not None and not 1 <= block <= depth:
        raise ValueError(f"Expected a block from 1 to {depth}, received: block={block}.")
    inputs = preprocess(images)
    maps = _numpy(network.attention(inputs)[(block or depth) - 1][1]).mean(axis=1)  # (B, T queries, T keys)
    paid = maps[:, 0, 1:] if network.patch_embedding.class_token else maps.mean(axis=1)
    grid, side = network.geometry.grid, network.geometry.image_size
    paid = paid.reshape(-1, grid, grid) / paid.max(axis=1)[:, None, None]
    smooth = interpolation_matrix(grid, side, "bilinear")
    light = np.einsum("ih,jw,bhw->bij", smooth, smooth, paid)[..., None]

    shown = np.clip(255 * (_numpy(inputs) * preprocess.std + preprocess.mean), 0, 255)
    if shown.shape[-1] != 3:
        shown = np.repeat(shown.mean(axis=-1, keepdims=True), 3, axis=-1)
    pictures = np.concatenate([shown, shown * (0.15 + 0.85 * light)], axis=2)
    enlarged = -(-_SIDE // side)
    return np.round(pictures).astype("uint8").repeat(enlarged, axis=1).repeat(enlarged, axis=2)


def _numpy(tensor: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")))
