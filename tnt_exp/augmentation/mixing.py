"""MixUp (arXiv 1710.09412) and CutMix (arXiv 1905.04899), one draw a batch as in the papers and timm.

Both are one blend of the batch with its reverse: a weight of the partner at each pixel (MixUp: the same everywhere;
CutMix: 1 in a box), and the mean of that weight for the labels.
"""

import math

from keras import ops

from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig


def mix(
    inputs: Tensor, targets: Tensor, config: AugmentationConfig, draws: StatelessRandom, mixing: Tensor
) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with those of its partner.

    Args:
        inputs: float32 (B, S, S, C).
        targets: float32 (B, K).
        config: Strength and probabilities.
        draws: Random numbers of the step.
        mixing: Scalar in [0, 1], multiplies the probability that the batch is mixed.

    Returns:
        Inputs and targets, of the same shapes.
    """
    weight, share, mixed = partner_weight(config, draws, inputs.shape[1], mixing)
    weight = weight[None, :, :, None]

    def blend(values: Tensor, part: Tensor) -> Tensor:
        # Not values + part * (partner - values): this form is exact at 0 and at 1.
        return values * (1.0 - part) + ops.flip(values, axis=0) * part

    # A condition, so that a batch that is not mixed costs nothing.
    inputs, targets = ops.cond(mixed, lambda: (blend(inputs, weight), blend(targets, share)), lambda: (inputs, targets))
    return inputs, targets


def partner_weight(
    config: AugmentationConfig, draws: StatelessRandom, size: int, mixing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight of the partner at each pixel (S, S), its mean for the label, and whether to mix at all."""
    uniform = draws.uniform("mixing", (6,))
    cut_chance = config.cutmix_probability if config.mixup and config.cutmix else float(config.cutmix > 0)
    cut = uniform[0] < cut_chance
    alpha = ops.where(cut, config.cutmix or 1.0, config.mixup or 1.0)
    kept = symmetric_beta(alpha, uniform[1], uniform[2])
    box, area = _box(kept, uniform[3], uniform[4], size)
    mixed = uniform[5] < config.mix_probability * mixing
    return ops.where(cut, box, 1.0 - kept), ops.where(cut, area, 1.0 - kept), mixed


def symmetric_beta(alpha: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Turn two uniform numbers into one of the law Beta(alpha, alpha), exactly.

    From Student's t with 2 alpha degrees of freedom by Bailey's polar method (L. Devroye, Random variate generation
    in one line of code, 1996); Keras' own needs gamma variates, which XLA lacks on TensorFlow.
    """
    cosine = ops.cos(2.0 * math.pi * second)
    square = (ops.maximum(first, 1e-7) ** (-1.0 / alpha) - 1.0) * cosine**2
    # square / (1 + square) rather than 1 / (1 + 1 / square): finite at 0; a square beyond float32 counts as 1.
    square = ops.minimum(square, 1e30)
    return 0.5 + 0.5 * ops.sign(cosine) * ops.sqrt(square / (1.0 + square))


def _box(kept: Tensor, x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the box (S, S), 1 inside, that leaves about the part `kept`, and its true part of the area."""
    half = ops.floor(ops.floor(size * ops.sqrt(1.0 - kept)) / 2.0)
    place = ops.arange(size, dtype="float32")

    def span(uniform: Tensor) -> Tensor:
        centre = ops.floor(uniform * size)
        return ops.cast((place >= centre - half) & (place < centre + half), "float32")

    rows, columns = span(y), span(x)
    return rows[:, None] * columns, ops.sum(rows) * ops.sum(columns) / size**2
