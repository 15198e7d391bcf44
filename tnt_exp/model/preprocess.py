"""Resizing, cropping and normalisation of images before the network; they belong to its weights.

Resizing along one axis is a product with a matrix, with the same numbers on every backend. Positions of patches are
resized by the same matrix.

Shapes: B batch, S side of the network's input in pixels.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Unpack

import keras
import numpy as np
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.tnt_config import LayerOptions


def interpolation_matrix(
    source: int | Tensor,
    target: int,
    interpolation: str,
    *,
    scaled: int | Tensor | None = None,
    offset: float | Tensor = 0.0,
    xp: ModuleType = np,
) -> Tensor:
    """Return the matrix that resizes `source` samples to `scaled` and keeps `target` of those from `offset` on.

    Sample i covers [i, i + 1) ("half-pixel centres"). Where the image shrinks, the filter is widened by the same
    factor (antialias); at the border, it is truncated and scaled to sum to 1. These are the conventions of Pillow, of
    timm and of PyTorch's antialiased resize, and without shrinking of `keras.layers.Resizing`.

    Args:
        interpolation: "bilinear" (triangle) or "bicubic" (Keys, a = -0.5).
        scaled: None: target.
        offset: May be a fraction.
        xp: NumPy, or `keras.ops` where `source` is known only when the graph runs.

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


@keras.saving.register_keras_serializable(package="tnt_exp")
class Preprocess(keras.layers.Layer):
    """Images of any size, valued 0 to 255, become normalised square ones.

    The short side is resized to floor(image_size / crop_fraction), the other in proportion, then the central square
    is kept: 224 with a crop fraction of 0.9 is 248, then 224, as the published weights expect. Then
    (x / 255 - mean) / std.

    Images are (B, height, width, channels), uint8 or floats in 0..255; the result is (B, S, S, channels), float32.

    Args:
        image_size: S, side of the result, pixels.
        mean, std: One number, or one per channel, on pixels in [0, 1].
        interpolation: "bilinear" or "bicubic", with antialias where it shrinks.
        crop_fraction: Fraction of the side that is kept, in (0, 1].

    Raises:
        ValueError: `mean` or `std` do not fit the channels, or a number is out of range.
    """

    def __init__(
        self,
        image_size: int,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        interpolation: str = "bilinear",
        crop_fraction: float = 1.0,
        **layer_options: Unpack[LayerOptions],
    ) -> None:
        # Half precision would round 8-bit pixels.
        super().__init__(**{**layer_options, "dtype": "float32"}, autocast=False)
        if not 0 < crop_fraction <= 1:
            raise ValueError(f"Expected crop_fraction in (0, 1], received: crop_fraction={crop_fraction}.")
        if min(std) <= 0:
            raise ValueError(f"Expected std above 0, received: std={tuple(std)}.")
        interpolation_matrix(1, 1, interpolation)  # raises if it is unknown
        self.image_size = image_size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.interpolation = interpolation
        self.crop_fraction = crop_fraction

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check the number of channels."""
        channels = input_shape[-1]
        for key in ("mean", "std"):
            numbers = getattr(self, key)
            if len(numbers) not in (1, channels):
                raise ValueError(
                    f"Expected {key} to be one number or {channels}, one per channel, received: {key}={numbers}."
                )

    def call(self, images: Tensor) -> Tensor:
        """Return the images resized, cropped and normalised."""
        x = ops.cast(images, "float32")
        if self.crop_fraction < 1 or tuple(x.shape[1:3]) != (self.image_size, self.image_size):
            _, height, width, channels = ops.shape(x)
            rows, columns = self.matrices(height, width)
            # Products of matrices, not einsum: LiteRT's converter loses the shape of one.
            x = ops.matmul(rows, ops.reshape(x, (-1, height, width * channels)))
            x = ops.matmul(columns, ops.reshape(x, (-1, width, channels)))
            x = ops.reshape(x, (-1, self.image_size, self.image_size, channels))
            if self.interpolation == "bicubic":
                x = ops.clip(x, 0.0, 255.0)  # bicubic overshoots at edges, which 8 bits would clip
        scale = 1 / (255 * np.asarray(self.std))
        shift = np.asarray(self.mean) / self.std
        return ops.subtract(ops.multiply(x, scale.astype("float32")), shift.astype("float32"))

    def matrices(self, height: int | Tensor, width: int | Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrices that resize and crop rows and columns: (S, height), (S, width)."""
        is_static = isinstance(height, int) and isinstance(width, int)
        xp = np if is_static else ops
        resized = math.floor(self.image_size / self.crop_fraction)
        short = xp.minimum(height, width)
        matrices = []
        for length in (height, width):
            scaled = length * resized // short
            offset = xp.round((scaled - self.image_size) / 2)
            if not is_static:
                length, scaled, offset = (ops.cast(number, "float32") for number in (length, scaled, offset))
            matrix = interpolation_matrix(
                length, self.image_size, self.interpolation, scaled=scaled, offset=offset, xp=xp
            )
            matrices.append(ops.cast(matrix, "float32"))
        return matrices[0], matrices[1]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (B, S, S, channels)."""
        return (input_shape[0], self.image_size, self.image_size, input_shape[-1])
