"""The geometric changes of each image: composed into one affine map, by which the image is resampled once.

A map is a float32 (B, 2, 3) that takes a point of the output to a point of the input, both in frame units: the
image spans [-0.5, 0.5] in x (to the right) and in y (down). Changes compose in the order in which a picture would
undergo them: crop, flips, policy, rotation, shear, zoom, translation.

Difference from a chain of separate operations: pixels that an earlier operation moves out of the frame are not lost,
a later one may move them back; and there is one interpolation instead of several.

The resampling is bilinear, with half-pixel centres. A point outside the image takes the fill; a point inside blends its
four neighbours, the border pixel repeated (as Pillow's bilinear filter and as a plain resize). A source larger than the
output is filtered by as much as it shrinks, as in evaluation.

Measured for 128 images, 32 to 96 px, TensorFlow on 2 cores: four gathers of flattened pixels 19 ms (one gather of
packed neighbourhoods 24 ms, channel by channel 32 ms); two batched matmuls, where the axes do not mix, 3 ms.

Shapes: B batch, h and w sides of the source image in pixels, S side of the output in pixels, C channels.
"""

import functools
import math

from keras import ops

from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig, Fill

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
    height, width = source
    maps: list[Tensor] = []
    if config.crop_scale is not None:
        maps.append(_random_resized_crop(config.crop_scale, config.crop_ratio, random, batch, source))
    if config.crop_padding:
        shift = ops.floor(random.uniform("crop_padding", (batch, 2), -config.crop_padding, config.crop_padding + 1))
        maps.append(affine(1.0, 0.0, shift[:, 0] / width, 0.0, 1.0, shift[:, 1] / height))
    if config.horizontal_flip or config.vertical_flip:
        probability = ops.convert_to_tensor([config.horizontal_flip, config.vertical_flip], "float32")
        sign = 1.0 - 2.0 * ops.cast(random.uniform("flip", (batch, 2)) < probability, "float32")
        maps.append(affine(sign[:, 0], 0.0, 0.0, 0.0, sign[:, 1], 0.0))
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
    x, y = (left + box_width / 2) / width - 0.5, (top + box_height / 2) / height - 0.5
    return affine(box_width / width, 0.0, x, 0.0, box_height / height, y)


def sample(pixels: Tensor, maps: Tensor | None, size: int, fill: Fill, axis_aligned: bool) -> Tensor:
    """Sample each image, float32 (B, h, w, C), at the points given by its map; returns float32 (B, S, S, C).

    Args:
        maps: (B, 2, 3) in frame units; None: a plain resize.
        size: Height and width of the output, S.
        fill: Values outside the image; constant is 0.
        axis_aligned: Whether no map mixes x and y.
    """
    height, width = pixels.shape[1:3]
    if maps is None:
        if (height, width) == (size, size):
            return pixels
        maps, fill, axis_aligned = ops.eye(2, 3)[None], Fill.edge, True
    centres = (ops.arange(size, dtype="float32") + 0.5) / size - 0.5
    if axis_aligned:
        x = (maps[:, 0, 0, None] * centres + maps[:, 0, 2, None] + 0.5) * width
        y = (maps[:, 1, 1, None] * centres + maps[:, 1, 2, None] + 0.5) * height
        across = _bilinear_weights(x, width, fill, _spacing(maps[:, 0], width, size))
        return _by_matmul(pixels, across, _bilinear_weights(y, height, fill, _spacing(maps[:, 1], height, size)))
    pixels = _filtered(pixels, maps, size)
    height, width = pixels.shape[1:3]
    rows = maps[:, :, 1, None, None] * centres[:, None] + maps[:, :, 2, None, None] + 0.5
    points = maps[:, :, 0, None, None] * centres + rows
    return _by_gather(pixels, points[:, 0] * width, points[:, 1] * height, fill)


def _filtered(pixels: Tensor, maps: Tensor, size: int) -> Tensor:
    """Blur each image by as much as its map shrinks it, and keep at most twice the side of the output."""
    height, width = pixels.shape[1:3]
    if max(height, width) <= size:
        return pixels
    weights = []
    for length, row in ((width, maps[:, 0]), (height, maps[:, 1])):
        count = min(length, 2 * size)
        points = (ops.arange(count, dtype="float32")[None] + 0.5) * (length / count)
        spacing = _spacing(row, length, size)
        wide = None if spacing is None else ops.maximum(spacing, length / count)
        weights.append(_bilinear_weights(points, length, Fill.edge, wide))
    return _by_matmul(pixels, *weights)


def _spacing(row: Tensor, length: int, size: int) -> Tensor | None:
    """Return (B, 1, 1): the pixels of the source per pixel of the output; None if the source is not larger."""
    return None if length <= size else (ops.norm(row[:, :2], axis=1) * (length / size))[:, None, None]


def _position(points: Tensor, length: int, fill: Fill) -> Tensor:
    """Return where points lie between the pixels 0 and length - 1; with `reflect`, mirrored at both ends before."""
    if fill is Fill.reflect:
        points = ops.abs(points)
        points = points - ops.floor(points / (2 * length)) * (2 * length)
        points = ops.minimum(points, 2 * length - points)
    return ops.clip(points - 0.5, 0.0, length - 1.0)


def _inside(points: Tensor, length: int) -> Tensor:
    return ops.cast((points >= 0) & (points <= length), "float32")


def _bilinear_weights(points: Tensor, length: int, fill: Fill, spacing: Tensor | None) -> Tensor:
    """Return (B, S, length): the bilinear weight of each pixel at each point.

    Where points are more than a pixel apart, the filter is as wide as their spacing (as that of `Preprocess`).
    """
    position = _position(points, length, fill)
    distance = ops.abs(position[..., None] - ops.arange(length, dtype="float32"))
    if spacing is not None:
        distance = distance / ops.maximum(spacing, 1.0)
    weights = ops.maximum(1.0 - distance, 0.0)
    if spacing is not None:
        weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    return weights * _inside(points, length)[..., None] if fill is Fill.constant else weights


def _by_matmul(pixels: Tensor, across: Tensor, down: Tensor) -> Tensor:
    batch, height, width, channels = pixels.shape
    new_height, new_width = down.shape[1], across.shape[1]
    columns = ops.reshape(ops.transpose(pixels, (0, 2, 1, 3)), (batch, width, height * channels))
    columns = ops.reshape(ops.matmul(across, columns), (batch, new_width, height, channels))
    rows = ops.reshape(ops.transpose(columns, (0, 2, 1, 3)), (batch, height, new_width * channels))
    return ops.reshape(ops.matmul(down, rows), (batch, new_height, new_width, channels))


def _by_gather(pixels: Tensor, x: Tensor, y: Tensor, fill: Fill) -> Tensor:
    batch, height, width, channels = pixels.shape
    left, right, across = _neighbours(x, width, fill)
    above, below, down = _neighbours(y, height, fill)
    flat = ops.reshape(pixels, (-1, channels))
    image = ops.arange(batch, dtype="int32")[:, None, None] * (height * width)
    above, below = above * width + image, below * width + image

    def taps(row: Tensor) -> Tensor:
        first, second = ops.take(flat, row + left, axis=0), ops.take(flat, row + right, axis=0)
        return first + across * (second - first)

    top, bottom = taps(above), taps(below)
    result = top + down * (bottom - top)
    if fill is Fill.constant:
        result = result * (_inside(x, width) * _inside(y, height))[..., None]
    return result


def _neighbours(points: Tensor, length: int, fill: Fill) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pixel before each point, the one after, and the weight of the latter with a channel axis."""
    position = _position(points, length, fill)
    before = ops.floor(position)
    index = ops.cast(before, "int32")
    return index, ops.minimum(index + 1, length - 1), (position - before)[..., None]
