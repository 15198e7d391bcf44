"""The geometric changes of each image, composed into one affine map from output pixels to source pixels.

A map is a float32 (B, 2, 3) that takes a point of the output to a point of the input, both in frame units: the
image spans [-0.5, 0.5] in x (to the right) and in y (down). Changes compose in the order in which a picture would
undergo them: crop, flips, policy, rotation, shear, zoom, translation.

Difference from a chain of separate operations: pixels that an earlier operation moves out of the frame are not lost,
a later one may move them back; and there is one interpolation instead of several.
"""

import functools
import math

from keras import ops

from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig

CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop


def affine(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Return the map x' = a x + b y + c, y' = d x + e y + f; each argument a number or (B,), at least one (B,)."""
    rows = [ops.cast(value, "float32") for value in (a, b, c, d, e, f)]
    batch = max((ops.shape(row)[0] for row in rows if len(row.shape)), default=1)
    return ops.reshape(ops.stack([ops.broadcast_to(row, (batch,)) for row in rows], axis=-1), (-1, 2, 3))


def compose(first: Tensor, later: Tensor) -> Tensor:
    """Return the map of a picture that undergoes `first` and then `later`."""
    # Written out rather than a matmul: reduced matmul precision on a GPU would move pixels.
    linear = ops.sum(first[:, :, :2, None] * later[:, None, :, :], axis=2)
    return ops.concatenate([linear[:, :, :2], linear[:, :, 2:] + first[:, :, 2:]], axis=-1)


def rotation(angle: Tensor) -> Tensor:
    """Return the map of a picture turned counter-clockwise by `angle` (B,), radians."""
    cos, sin = ops.cos(angle), ops.sin(angle)
    return affine(cos, -sin, 0.0, sin, cos, 0.0)


def central_square(height: int, width: int, size: int) -> Tensor:
    """Return the map (1, 2, 3) to the square of `size` pixels that `Preprocess` keeps of an image, to the pixel."""
    rows = []
    for length in (width, height):
        scaled = length * size // min(height, width)
        rows += [size / scaled, (size / 2 + round((scaled - size) / 2)) / scaled - 0.5]
    return ops.convert_to_tensor([[[rows[0], 0.0, rows[1]], [0.0, rows[2], rows[3]]]], "float32")


def random_geometry(
    config: AugmentationConfig,
    random: StatelessRandom,
    batch: int,
    source: tuple[int, int],
    policy: Tensor | None = None,
) -> Tensor | None:
    """Draw the map of each image, (batch, 2, 3); None if the configuration has no geometric change.

    `source` is height and width of the source in pixels, `policy` the map (batch, 2, 3) of a policy's operations.
    """
    maps: list[Tensor] = []
    if config.crop_scale is not None:
        maps.append(_random_resized_crop(config.crop_scale, config.crop_ratio, random, batch, source))
    if config.crop_padding:
        maps.append(_padded_crop(config.crop_padding, random, batch, source))
    if config.horizontal_flip or config.vertical_flip:
        maps.append(_flips(config, random, batch))
    if policy is not None:
        maps.append(policy)
    if config.rotation:
        limit = math.radians(config.rotation)
        maps.append(rotation(random.uniform("rotation", (batch,), -limit, limit)))
    if config.shear:
        limit = math.radians(config.shear)
        tangents = ops.tan(random.uniform("shear", (batch, 2), -limit, limit))
        maps.append(affine(1.0, tangents[:, 0], 0.0, tangents[:, 1], 1.0, 0.0))
    if config.zoom:
        scale = random.uniform("zoom", (batch, 2), 1 - config.zoom, 1 + config.zoom)
        maps.append(affine(scale[:, 0], 0.0, 0.0, 0.0, scale[:, 1], 0.0))
    if config.translation:
        shift = random.uniform("translation", (batch, 2), -config.translation, config.translation)
        maps.append(affine(1.0, 0.0, shift[:, 0], 0.0, 1.0, shift[:, 1]))
    return functools.reduce(compose, maps) if maps else None


def _flips(config: AugmentationConfig, random: StatelessRandom, batch: int) -> Tensor:
    probability = ops.convert_to_tensor([config.horizontal_flip, config.vertical_flip], "float32")
    sign = 1.0 - 2.0 * ops.cast(random.uniform("flip", (batch, 2)) < probability, "float32")
    return affine(sign[:, 0], 0.0, 0.0, 0.0, sign[:, 1], 0.0)


def _padded_crop(padding: int, random: StatelessRandom, batch: int, source: tuple[int, int]) -> Tensor:
    height, width = source
    shift = ops.floor(random.uniform("crop_padding", (batch, 2), -padding, padding + 1))
    return affine(1.0, 0.0, shift[:, 0] / width, 0.0, 1.0, shift[:, 1] / height)


def _random_resized_crop(
    scale: list[float], ratio: list[float], random: StatelessRandom, batch: int, source: tuple[int, int]
) -> Tensor:
    """Draw a box as torchvision does: the first of ten that fits, or the largest central box of an allowed ratio."""
    height, width = source
    shape = (batch, CROP_ATTEMPTS)
    area = random.uniform("crop_area", shape, scale[0], scale[1]) * (height * width)
    aspect = ops.exp(random.uniform("crop_aspect", shape, math.log(ratio[0]), math.log(ratio[1])))
    box_width = ops.round(ops.sqrt(area * aspect))
    box_height = ops.round(ops.sqrt(area / aspect))
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    chosen = ops.one_hot(ops.argmax(fits, axis=-1), CROP_ATTEMPTS, dtype="float32")
    found = ops.any(fits, axis=-1)
    central_width = float(round(min(width, height * ratio[1])))
    central_height = float(round(min(height, width / ratio[0])))
    box_width = ops.where(found, ops.sum(box_width * chosen, axis=-1), central_width)
    box_height = ops.where(found, ops.sum(box_height * chosen, axis=-1), central_height)
    position = random.uniform("crop_place", (batch, 2))
    left = ops.where(found, ops.floor(position[:, 0] * (width - box_width + 1)), ops.floor((width - box_width) / 2))
    top = ops.where(found, ops.floor(position[:, 1] * (height - box_height + 1)), ops.floor((height - box_height) / 2))
    return affine(
        box_width / width,
        0.0,
        (left + box_width / 2) / width - 0.5,
        0.0,
        box_height / height,
        (top + box_height / 2) / height - 0.5,
    )
