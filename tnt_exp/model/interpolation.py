"""Resizing along one axis as a matrix: the same numbers on every backend, for images and for positions."""

from typing import Any

import numpy as np


def interpolation_matrix(
    source: Any, target: int, interpolation: str, *, scaled: Any = None, offset: Any = 0.0, xp: Any = np
) -> Any:
    """The matrix that resizes `source` samples to `scaled` and keeps `target` of those from `offset` on.

    Sample i covers [i, i + 1) ("half-pixel centres"). Where it shrinks, the filter is widened by the same factor
    (antialias); at the border, it is cut off and scaled to sum to 1. These are the conventions of Pillow, of timm and
    of PyTorch's antialiased resize, and without shrinking of `keras.layers.Resizing`.

    Args:
        source: Samples before.
        target: Samples after.
        interpolation: "bilinear" (triangle) or "bicubic" (Keys, a = -0.5).
        scaled: Samples after resizing, before cropping; None: target.
        offset: The first sample kept, not necessarily whole.
        xp: NumPy, or `keras.ops` where `source` is only known when the graph runs.

    Returns:
        (target, source), each row sums to 1.

    Raises:
        ValueError: `interpolation` is unknown.
    """
    step = source / (target if scaled is None else scaled)
    centres = (xp.arange(target, dtype="float32") + offset + 0.5) * step - 0.5
    distance = xp.abs(xp.arange(source, dtype="float32")[None, :] - centres[:, None]) / xp.maximum(step, 1.0)
    if interpolation == "bilinear":
        weights = xp.maximum(1.0 - distance, 0.0)
    elif interpolation == "bicubic":
        near = (1.5 * distance - 2.5) * distance**2 + 1.0
        far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
        weights = xp.where(distance < 1.0, near, xp.where(distance < 2.0, far, 0.0))
    else:
        raise ValueError(
            f"Expected interpolation to be 'bilinear' or 'bicubic', received: interpolation={interpolation!r}."
        )
    return weights / xp.sum(weights, axis=1, keepdims=True)
