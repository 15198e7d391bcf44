"""Random erasing (arXiv 1708.04896), as timm's mode "pixel": a box of standard normal noise in normalised images.

Shapes: B batch, S side of the network's input in pixels, C channels.
"""

import math

from keras import ops

from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor

AREA = (0.02, 1 / 3)  # of the image
ASPECT = (0.3, 1 / 0.3)  # height / width
ATTEMPTS = 10


def erase(inputs: Tensor, probability: float, random: StatelessRandom) -> Tensor:
    """Fill a random box of each image, float32 (B, S, S, C), normalised, with noise, with the given probability."""
    batch, size = inputs.shape[0], inputs.shape[1]
    noise = random.normal("erasing/noise", tuple(inputs.shape))
    return ops.where(random_boxes(probability, random, batch, size)[..., None], noise, inputs)


def random_boxes(probability: float, random: StatelessRandom, batch: int, size: int) -> Tensor:
    """Return bool (B, S, S): the first of ten random boxes that is smaller than the image, if there is one."""
    shape = (batch, ATTEMPTS)
    area = random.uniform("erasing/area", shape, *AREA) * size**2
    aspect = ops.exp(random.uniform("erasing/aspect", shape, math.log(ASPECT[0]), math.log(ASPECT[1])))
    height, width = ops.round(ops.sqrt(area * aspect)), ops.round(ops.sqrt(area / aspect))
    fits = (height < size) & (width < size)
    first = ops.one_hot(ops.argmax(fits, axis=-1), ATTEMPTS, dtype="float32")
    uniform = random.uniform("erasing", (batch, 3))
    erased = ops.cast(ops.any(fits, axis=-1) & (uniform[:, 0] < probability), "float32")
    height, width = ops.sum(height * first, axis=-1) * erased, ops.sum(width * first, axis=-1) * erased
    rows = _span(uniform[:, 1], height, size)
    columns = _span(uniform[:, 2], width, size)
    return rows[:, :, None] & columns[:, None, :]


def _span(uniform: Tensor, length: Tensor, size: int) -> Tensor:
    """Return bool (B, S): `length` adjacent pixels, at a uniform position."""
    first = ops.floor(uniform * (size - length + 1))[:, None]
    pixel = ops.arange(size, dtype="float32")
    return (pixel >= first) & (pixel < first + length[:, None])
