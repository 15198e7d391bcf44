"""RandAugment, AutoAugment and TrivialAugment: which operations each image gets, how strongly.

A policy names one or more operations an image, one after the other. A level from 0 to 1 becomes an operation's
argument by a law.
"""

import math
from dataclasses import dataclass

import numpy as np
from keras import ops

from tnt_exp.augmentation.geometry import compose
from tnt_exp.augmentation.operations import Operation, apply_color, geometry_of
from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig, Policy


@dataclass(frozen=True)
class MagnitudeRange:
    """How a level becomes an argument: base + span * level.

    Args:
        base: The argument at level 0.
        span: Its change from level 0 to level 1.
        signed: The change goes either way, at random.
        whole: The change is a whole number: 0.0 cuts, 0.5 rounds; None leaves it.
    """

    base: float = 0.0
    span: float = 0.0
    signed: bool = False
    whole: float | None = None


MagnitudeRanges = dict[Operation, MagnitudeRange]

ENHANCEMENTS = (Operation.color, Operation.contrast, Operation.brightness, Operation.sharpness)


def randaugment_ranges(increasing: bool) -> MagnitudeRanges:
    """Return timm's fifteen operations, in the versions of `rand-...-inc1` or `-inc0`."""
    return {
        Operation.autocontrast: MagnitudeRange(),
        Operation.equalize: MagnitudeRange(),
        Operation.invert: MagnitudeRange(),
        Operation.rotate: MagnitudeRange(0, 30, signed=True),
        Operation.posterize: MagnitudeRange(4, -4, whole=0.0) if increasing else MagnitudeRange(0, 4, whole=0.0),
        Operation.solarize: MagnitudeRange(256, -256, whole=0.0) if increasing else MagnitudeRange(0, 256, whole=0.0),
        Operation.solarize_add: MagnitudeRange(0, 110, whole=0.0),
        **dict.fromkeys(ENHANCEMENTS, MagnitudeRange(1, 0.9, signed=True) if increasing else MagnitudeRange(0.1, 1.8)),
        Operation.shear_x: MagnitudeRange(0, 0.3, signed=True),
        Operation.shear_y: MagnitudeRange(0, 0.3, signed=True),
        Operation.translate_x: MagnitudeRange(0, 0.45, signed=True),
        Operation.translate_y: MagnitudeRange(0, 0.45, signed=True),
    }


def autoaugment_ranges() -> MagnitudeRanges:
    """Return the ranges of the AutoAugment paper's table 6, levels in ninths."""
    shift = MagnitudeRange(0, 150 / 331, signed=True)
    return {
        Operation.autocontrast: MagnitudeRange(),
        Operation.equalize: MagnitudeRange(),
        Operation.invert: MagnitudeRange(),
        Operation.rotate: MagnitudeRange(0, 30, signed=True),
        Operation.posterize: MagnitudeRange(8, -4, whole=0.5),
        Operation.solarize: MagnitudeRange(255, -255),
        **dict.fromkeys(ENHANCEMENTS, MagnitudeRange(1, 0.9, signed=True)),
        Operation.shear_x: MagnitudeRange(0, 0.3, signed=True),
        Operation.shear_y: MagnitudeRange(0, 0.3, signed=True),
        Operation.translate_x: shift,
        Operation.translate_y: shift,
    }


def trivial_ranges(frame: tuple[int, int]) -> MagnitudeRanges:
    """Return the wide ranges of TrivialAugment, levels in thirtieths; shifts of up to 32 pixels of the frame."""
    height, width = frame
    return {
        Operation.identity: MagnitudeRange(),
        Operation.autocontrast: MagnitudeRange(),
        Operation.equalize: MagnitudeRange(),
        Operation.rotate: MagnitudeRange(0, 135, signed=True),
        Operation.posterize: MagnitudeRange(8, -6, whole=0.5),
        Operation.solarize: MagnitudeRange(255, -255),
        **dict.fromkeys(ENHANCEMENTS, MagnitudeRange(1, 0.99, signed=True)),
        Operation.shear_x: MagnitudeRange(0, 0.99, signed=True),
        Operation.shear_y: MagnitudeRange(0, 0.99, signed=True),
        Operation.translate_x: MagnitudeRange(0, 32 / width, signed=True),
        Operation.translate_y: MagnitudeRange(0, 32 / height, signed=True),
    }


RANDAUGMENT_PROBABILITY = 0.5  # timm applies each operation drawn with this probability
TRIVIAL_LEVELS = 31

_ = Operation
CIFAR10_POLICY = (  # two operations each with (operation, probability, level in ninths)
    ((_.invert, 0.1, 0), (_.contrast, 0.2, 6)),
    ((_.rotate, 0.7, 2), (_.translate_x, 0.3, 9)),
    ((_.sharpness, 0.8, 1), (_.sharpness, 0.9, 3)),
    ((_.shear_y, 0.5, 8), (_.translate_y, 0.7, 9)),
    ((_.autocontrast, 0.5, 0), (_.equalize, 0.9, 0)),
    ((_.shear_y, 0.2, 7), (_.posterize, 0.3, 7)),
    ((_.color, 0.4, 3), (_.brightness, 0.6, 7)),
    ((_.sharpness, 0.3, 9), (_.brightness, 0.7, 9)),
    ((_.equalize, 0.6, 0), (_.equalize, 0.5, 0)),
    ((_.contrast, 0.6, 7), (_.sharpness, 0.6, 5)),
    ((_.color, 0.7, 7), (_.translate_x, 0.5, 8)),
    ((_.equalize, 0.3, 0), (_.autocontrast, 0.4, 0)),
    ((_.translate_y, 0.4, 3), (_.sharpness, 0.2, 6)),
    ((_.brightness, 0.9, 6), (_.color, 0.2, 8)),
    ((_.solarize, 0.5, 2), (_.invert, 0.0, 0)),
    ((_.equalize, 0.2, 0), (_.autocontrast, 0.6, 0)),
    ((_.equalize, 0.2, 0), (_.equalize, 0.6, 0)),
    ((_.color, 0.9, 9), (_.equalize, 0.6, 0)),
    ((_.autocontrast, 0.8, 0), (_.solarize, 0.2, 8)),
    ((_.brightness, 0.1, 3), (_.color, 0.7, 0)),
    ((_.solarize, 0.4, 5), (_.autocontrast, 0.9, 0)),
    ((_.translate_y, 0.9, 9), (_.translate_y, 0.7, 9)),
    ((_.autocontrast, 0.9, 0), (_.solarize, 0.8, 3)),
    ((_.equalize, 0.8, 0), (_.invert, 0.1, 0)),
    ((_.translate_y, 0.7, 9), (_.autocontrast, 0.9, 0)),
)


def random_operations(
    config: AugmentationConfig, draws: StatelessRandom, batch: int, frame: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Draw the operations of each image.

    Args:
        config: Which policy (not none), how strong.
        draws: Random numbers of the step.
        batch: Images in the batch, B.
        frame: Height and width, in the pixels in which the policy counts.

    Returns:
        Operations int32 (B, n) and their arguments float32 (B, n), to be applied one after the other.
    """
    if config.policy is Policy.randaugment:
        return _randaugment(config, draws, batch)
    return _autoaugment(draws, batch) if config.policy is Policy.autoaugment else _trivial(draws, batch, frame)


def apply_operations(pixels: Tensor, operations: Tensor, arguments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images with the colour operations done, and the affine map (B, 2, 3) of the geometric ones."""
    # A loop of the backend, not of Python: XLA would compute the operations anew for each pixel that reads them.
    pixels = ops.fori_loop(
        0,
        operations.shape[1],
        lambda turn, now: apply_color(now, ops.take(operations, turn, axis=1), ops.take(arguments, turn, axis=1)),
        pixels,
    )
    maps = geometry_of(operations[:, 0], arguments[:, 0])
    for turn in range(1, operations.shape[1]):
        maps = compose(maps, geometry_of(operations[:, turn], arguments[:, turn]))
    return pixels, maps


def _randaugment(config: AugmentationConfig, draws: StatelessRandom, batch: int) -> tuple[Tensor, Tensor]:
    laws = randaugment_ranges(config.policy_increasing)
    shape = (batch, config.policy_operations)
    operations = ops.take(ops.convert_to_tensor(list(laws), "int32"), _below(len(laws), draws, "policy", shape))
    applied = draws.uniform("policy/applied", shape) < RANDAUGMENT_PROBABILITY
    operations = ops.where(applied, operations, int(Operation.identity))
    magnitude, deviation = config.policy_magnitude, config.policy_magnitude_std
    if math.isinf(deviation):  # timm's word for: uniform up to the magnitude
        level = draws.uniform("policy/level", shape, 0.0, magnitude)
    else:
        level = magnitude + deviation * draws.normal("policy/level", shape)
    return operations, _arguments(laws, operations, ops.clip(level / 10.0, 0.0, 1.0), draws)


def _autoaugment(draws: StatelessRandom, batch: int) -> tuple[Tensor, Tensor]:
    table = ops.convert_to_tensor(np.array(CIFAR10_POLICY, "float32"))  # sub-policy, operation in turn, what of it
    chosen = ops.take(table, _below(len(CIFAR10_POLICY), draws, "policy", (batch,)), axis=0)
    named, probability, level = chosen[..., 0], chosen[..., 1], chosen[..., 2] / 9.0
    applied = draws.uniform("policy/applied", (batch, 2)) < probability
    operations = ops.where(applied, ops.cast(named, "int32"), int(Operation.identity))
    return operations, _arguments(autoaugment_ranges(), operations, level, draws)


def _trivial(draws: StatelessRandom, batch: int, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    laws = trivial_ranges(frame)
    operations = ops.take(ops.convert_to_tensor(list(laws), "int32"), _below(len(laws), draws, "policy", (batch, 1)))
    level = ops.cast(_below(TRIVIAL_LEVELS, draws, "policy/level", (batch, 1)), "float32") / (TRIVIAL_LEVELS - 1)
    return operations, _arguments(laws, operations, level, draws)


def _below(count: int, draws: StatelessRandom, salt: str, shape: tuple[int, ...]) -> Tensor:
    """Return whole numbers below `count`, all equally likely."""
    return ops.minimum(ops.cast(draws.uniform(salt, shape) * count, "int32"), count - 1)


def _arguments(laws: MagnitudeRanges, operations: Tensor, level: Tensor, draws: StatelessRandom) -> Tensor:
    """Apply each operation's law to its level."""

    def column(values: dict[Operation, float]) -> Tensor:
        return ops.take(ops.convert_to_tensor([values.get(which, 0.0) for which in Operation], "float32"), operations)

    base = column({which: law.base for which, law in laws.items()})
    span = column({which: abs(law.span) for which, law in laws.items()})
    direction = column({which: math.copysign(1.0, law.span) for which, law in laws.items()})
    signed = column({which: float(law.signed) for which, law in laws.items()})
    whole = column({which: float(law.whole is not None) for which, law in laws.items()})
    rounding = column({which: law.whole or 0.0 for which, law in laws.items()})
    change = span * level
    change = ops.where(whole > 0, ops.floor(change + rounding), change)
    negative = (signed > 0) & (draws.uniform("policy/sign", tuple(operations.shape)) < 0.5)
    return base + change * ops.where(negative, -1.0, direction)
