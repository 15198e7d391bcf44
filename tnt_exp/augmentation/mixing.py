"""MixUp (arXiv 1710.09412), CutMix (arXiv 1905.04899) and random erasing (arXiv 1708.04896) of normalised images.

MixUp and CutMix have one draw per batch, as in the papers and timm. Both blend the batch with its reverse: a weight of
the partner image at each pixel (MixUp: the same everywhere; CutMix: 1 in a box), and the mean of that weight for the
labels. Erasing is timm's mode "pixel": a box of standard normal noise in each image.

Shapes: B batch, S side of the network's input in pixels, C channels, K classes.
"""

import math

from keras import ops

from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig

ERASED_AREA = (0.02, 1 / 3)  # of the image
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width
ERASING_ATTEMPTS = 10


def mix(
    inputs: Tensor,
    targets: Tensor,
    config: AugmentationConfig,
    random: StatelessRandom,
    mixing: Tensor,
    *,
    branching: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mix inputs, float32 (B, S, S, C), and targets, float32 (B, K), with those of each image's partner.

    `mixing`, a scalar in [0, 1], multiplies the probability that the batch is mixed. With `branching`, a condition
    skips the blend of a batch that is not mixed; the numbers are the same but for rounding.
    """
    pixel_weight, label_weight, is_mixed = partner_weight(config, random, inputs.shape[1], mixing)
    pixel_weight = pixel_weight[None, :, :, None]

    def blend(values: Tensor, weight: Tensor) -> Tensor:
        # Not values + weight * (partner - values): this form is exact at 0 and at 1.
        return values * (1.0 - weight) + ops.flip(values, axis=0) * weight

    def mixed() -> tuple[Tensor, Tensor]:
        return blend(inputs, pixel_weight), blend(targets, label_weight)

    if branching:  # a batch that is not mixed costs nothing
        inputs, targets = ops.cond(is_mixed, mixed, lambda: (inputs, targets))
        return inputs, targets
    # On a GPU the host would have to read the condition in each step, and wait for it; the blend is cheap there.
    both = zip(mixed(), (inputs, targets), strict=True)
    inputs, targets = (ops.where(is_mixed, after, before) for after, before in both)
    return inputs, targets


def partner_weight(
    config: AugmentationConfig, random: StatelessRandom, size: int, mixing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the partner's weight at each pixel (S, S), the mean of it for the label, and whether to mix at all."""
    uniform = random.uniform("mixing", (6,))
    cutmix_probability = config.cutmix_probability if config.mixup and config.cutmix else float(config.cutmix > 0)
    is_cutmix = uniform[0] < cutmix_probability
    alpha = ops.where(is_cutmix, config.cutmix or 1.0, config.mixup or 1.0)
    own_weight = symmetric_beta(alpha, uniform[1], uniform[2])
    box, area = _box(own_weight, uniform[3], uniform[4], size)
    is_mixed = uniform[5] < config.mix_probability * mixing
    pixel_weight = ops.where(is_cutmix, box, 1.0 - own_weight)
    label_weight = ops.where(is_cutmix, area, 1.0 - own_weight)
    return pixel_weight, label_weight, is_mixed


def symmetric_beta(alpha: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Turn two uniform numbers into one of the distribution Beta(alpha, alpha), exactly.

    From Student's t with 2 alpha degrees of freedom by Bailey's polar method (L. Devroye, Random variate generation
    in one line of code, 1996); `keras.random.beta` needs gamma variates, which XLA lacks on TensorFlow.
    """
    cosine = ops.cos(2.0 * math.pi * second)
    square = (ops.maximum(first, 1e-7) ** (-1.0 / alpha) - 1.0) * cosine**2
    # square / (1 + square) rather than 1 / (1 + 1 / square): finite at 0; a square beyond float32 counts as 1.
    square = ops.minimum(square, 1e30)
    return 0.5 + 0.5 * ops.sign(cosine) * ops.sqrt(square / (1.0 + square))


def _box(own_weight: Tensor, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the box (S, S), 1 inside, that leaves about `own_weight` of the area outside, and its exact area."""
    half = ops.floor(ops.floor(size * ops.sqrt(1.0 - own_weight)) / 2.0)
    starts = (ops.floor(centre * size) - half for centre in (y, x))
    rows, columns = (ops.cast(_span(start, 2.0 * half, size), "float32") for start in starts)
    return rows[:, None] * columns, ops.sum(rows) * ops.sum(columns) / size**2


def erase(inputs: Tensor, probability: float, random: StatelessRandom) -> Tensor:
    """Fill a random box of each image, float32 (B, S, S, C), normalised, with noise, with the given probability."""
    batch, size = inputs.shape[0], inputs.shape[1]
    noise = random.normal("erasing/noise", tuple(inputs.shape))
    return ops.where(random_boxes(probability, random, batch, size)[..., None], noise, inputs)


def random_boxes(probability: float, random: StatelessRandom, batch: int, size: int) -> Tensor:
    """Return bool (B, S, S): the first of ten random boxes that is smaller than the image, if there is one."""
    shape = (batch, ERASING_ATTEMPTS)
    area = random.uniform("erasing/area", shape, *ERASED_AREA) * size**2
    aspect = ops.exp(random.uniform("erasing/aspect", shape, math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1])))
    height, width = ops.round(ops.sqrt(area * aspect)), ops.round(ops.sqrt(area / aspect))
    fits = (height < size) & (width < size)
    first = ops.one_hot(ops.argmax(fits, axis=-1), ERASING_ATTEMPTS, dtype="float32")
    uniform = random.uniform("erasing", (batch, 3))
    erased = ops.cast(ops.any(fits, axis=-1) & (uniform[:, 0] < probability), "float32")
    height, width = ops.sum(height * first, axis=-1) * erased, ops.sum(width * first, axis=-1) * erased
    top, left = ops.floor(uniform[:, 1] * (size - height + 1)), ops.floor(uniform[:, 2] * (size - width + 1))
    rows, columns = _span(top[:, None], height[:, None], size), _span(left[:, None], width[:, None], size)
    return rows[:, :, None] & columns[:, None, :]


def _span(first: Tensor, length: Tensor, size: int) -> Tensor:
    """Return bool (..., S): `length` adjacent pixels from `first` on."""
    pixel = ops.arange(size, dtype="float32")
    return (pixel >= first) & (pixel < first + length)
