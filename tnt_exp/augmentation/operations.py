"""The operations of the published policies, applied to a batch in which each image has its own operation.

Images are float32 with integer values 0..255, as Pillow's. One pass computes every operation for every image, with an
argument that changes nothing where another operation was drawn: operations on single values go through one lookup
table per image and channel, colour and sharpness are blends, geometric operations become the image's affine map.

Difference from a chain of operations on decoded images: the geometric operations act after all colour operations, in
the final resampling (see `geometry`). So the statistics of equalize, autocontrast and contrast are those of the source
image, without fill or crop; the fill is not coloured; sharpness comes before the resampling.

Shapes: B batch, h and w sides of the source image in pixels, C channels.
"""

import math
from enum import IntEnum

import numpy as np
from keras import ops

from tnt_exp.augmentation.color import blend
from tnt_exp.augmentation.geometry import affine
from tnt_exp.augmentation.stateless_random import Tensor

LEVELS = 256


class Operation(IntEnum):
    """One operation; the comment says what its argument is."""

    identity = 0
    autocontrast = 1
    equalize = 2
    invert = 3
    posterize = 4  # bits kept
    solarize = 5  # first value inverted
    solarize_add = 6  # added to values below 128
    brightness = 7  # factor
    contrast = 8  # factor
    color = 9  # factor
    sharpness = 10  # factor
    rotate = 11  # degrees, counter-clockwise
    shear_x = 12  # tangent, about the top edge
    shear_y = 13  # tangent, about the left edge
    translate_x = 14  # fraction of the width, to the left
    translate_y = 15  # fraction of the height, upwards


def apply_color(pixels: Tensor, operation: Tensor, argument: Tensor) -> Tensor:
    """Apply each image's operation, int32 (B,), with its argument, float32 (B,), if it is a colour operation.

    Images are float32 (B, h, w, C), integer values.
    """

    def factor(which: Operation) -> Tensor:
        return ops.where(operation == which, argument, 1.0)

    luma = _luma(pixels)
    tables = _tables(pixels, luma, operation, argument)
    pixels = ops.take(ops.reshape(tables, (-1,)), _table_indices(pixels))
    if pixels.shape[-1] == 3:
        # `luma` was computed before the table was applied, which changes no image: one of the two does nothing.
        pixels = ops.floor(blend(luma, pixels, factor(Operation.color)))
    return ops.floor(blend(_smooth(pixels), pixels, factor(Operation.sharpness)))


def affine_map(operation: Tensor, argument: Tensor) -> Tensor:
    """Return the affine map (B, 2, 3) of each image's operation, the identity if the operation is not geometric."""

    def argument_of(which: Operation) -> Tensor:
        return ops.where(operation == which, argument, 0.0)

    angle = argument_of(Operation.rotate) * (np.pi / 180)
    cos, sin = ops.cos(angle), ops.sin(angle)
    shear_x, shear_y = argument_of(Operation.shear_x), argument_of(Operation.shear_y)
    return affine(
        cos,
        shear_x - sin,
        shear_x / 2 + argument_of(Operation.translate_x),
        shear_y + sin,
        cos,
        shear_y / 2 + argument_of(Operation.translate_y),
    )


def _luma(pixels: Tensor) -> Tensor:
    """Convert to grey as Pillow does: 16-bit fixed point, exact in float32."""
    if pixels.shape[-1] == 1:
        return pixels
    weights = ops.convert_to_tensor([19595.0, 38470.0, 7471.0], "float32")
    return ops.floor((ops.sum(pixels * weights, axis=-1, keepdims=True) + 32768.0) / 65536.0)


def _smooth(pixels: Tensor) -> Tensor:
    """Return the rounded mean of 3 x 3 pixels with weight 5 at the centre; the border does not change."""
    # The pool's rounding error cannot change the result: no multiple of 1/13 lies at a half.
    mean = ops.average_pool(pixels, 3, strides=1, padding="valid", data_format="channels_last")
    centre = pixels[:, 1:-1, 1:-1]
    change = ops.floor((9.0 * mean + 4.0 * centre) / 13.0 + 0.5) - centre
    return pixels + ops.pad(change, [[0, 0], [1, 1], [1, 1], [0, 0]])


def _table_indices(pixels: Tensor) -> Tensor:
    """Return where each value is in the flattened tables (B, C, 256), each of an image and a channel."""
    batch, _, _, channels = pixels.shape
    first = np.arange(batch * channels, dtype="int32").reshape(batch, 1, 1, channels) * LEVELS
    return ops.cast(pixels, "int32") + ops.convert_to_tensor(first)


def _tables(pixels: Tensor, luma: Tensor, operation: Tensor, argument: Tensor) -> Tensor:
    """Return the lookup tables (B, C, 256): the new value of each value of each channel."""
    batch, _, _, channels = pixels.shape
    value = ops.broadcast_to(ops.arange(LEVELS, dtype="float32"), (batch, channels, LEVELS))
    amount = argument[:, None, None]
    mean = ops.floor(ops.mean(luma, axis=(1, 2, 3)) + 0.5)[:, None, None]
    # 8 bits for the other operations, whose arguments would give no integer power of two.
    step = 2.0 ** (8.0 - ops.where(operation == Operation.posterize, argument, 8.0))[:, None, None]
    candidates = {
        Operation.autocontrast: _autocontrast(pixels, value),
        Operation.equalize: _equalize(pixels, value),
        Operation.invert: 255.0 - value,
        Operation.posterize: ops.floor(value / step) * step,
        Operation.solarize: ops.where(value < amount, value, 255.0 - value),
        Operation.solarize_add: ops.where(value < 128, ops.minimum(value + amount, 255.0), value),
        Operation.brightness: ops.floor(ops.clip(value * amount, 0.0, 255.0)),
        Operation.contrast: ops.floor(ops.clip(mean + amount * (value - mean), 0.0, 255.0)),
    }
    table = value
    for which, candidate in candidates.items():
        table = ops.where((operation == which)[:, None, None], candidate, table)
    return table


def _autocontrast(pixels: Tensor, value: Tensor) -> Tensor:
    """Stretch each channel to 0..255; a channel of one value does not change."""
    low, high = ops.min(pixels, axis=(1, 2))[..., None], ops.max(pixels, axis=(1, 2))[..., None]
    scale = 255.0 / ops.maximum(high - low, 1.0)
    stretched = ops.floor(ops.clip((value - low) * scale, 0.0, 255.0))
    return ops.where(high > low, stretched, value)


def _equalize(pixels: Tensor, value: Tensor) -> Tensor:
    """Spread each channel's values evenly over its pixels; a channel of one value does not change."""
    # A scatter, which measured three to ten times faster than one-hot matmuls or a sort.
    indices = ops.reshape(_table_indices(pixels), (-1,))
    counts = ops.segment_sum(ops.ones_like(indices, "float32"), indices, math.prod(value.shape))
    histogram = ops.reshape(counts, value.shape)
    total = ops.sum(histogram, axis=-1, keepdims=True)
    cumulative = ops.cumsum(histogram, axis=-1)
    highest = ops.max(ops.where(histogram > 0, value, 0.0), axis=-1, keepdims=True)
    last = ops.sum(ops.where(value == highest, histogram, 0.0), axis=-1, keepdims=True)
    step = ops.floor((total - last) / 255.0)
    safe = ops.maximum(step, 1.0)
    spread = ops.floor((ops.floor(step / 2.0) + cumulative - histogram) / safe)
    return ops.where(step > 0, ops.minimum(spread, 255.0), value)
