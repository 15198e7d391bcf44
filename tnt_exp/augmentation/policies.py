"""RandAugment, AutoAugment and TrivialAugment: the operations of each image and their arguments.

A policy draws one or more operations per image, to be applied one after the other, each with a level from 0 to 1. The
operation's magnitude range turns the level into its argument.

Shapes: B batch, n operations per image.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from keras import ops

from tnt_exp.augmentation.geometry import compose
from tnt_exp.augmentation.operations import Operation, affine_map, apply_color
from tnt_exp.augmentation.stateless_random import StatelessRandom, Tensor
from tnt_exp.config.augmentation import AugmentationConfig, Policy

ENHANCEMENTS = (Operation.color, Operation.contrast, Operation.brightness, Operation.sharpness)
FIXED = (Operation.autocontrast, Operation.equalize, Operation.invert)  # without a magnitude
SHEARS = (Operation.shear_x, Operation.shear_y)
TRANSLATIONS = (Operation.translate_x, Operation.translate_y)
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


@dataclass(frozen=True)
class MagnitudeRange:
    """How a level becomes an argument: base + span * level."""

    base: float = 0.0  # the argument at level 0
    span: float = 0.0  # its change from level 0 to level 1
    signed: bool = False  # whether the sign of the change is random
    rounding: float | None = None  # 0.0: the change is rounded down; 0.5: to the nearest integer; None: not at all


MagnitudeRanges = dict[Operation, MagnitudeRange]


def randaugment_ranges(increasing: bool) -> MagnitudeRanges:
    """Return the ranges of timm's fifteen operations, in the versions of `rand-...-inc1` or `-inc0`."""
    return {
        **dict.fromkeys(FIXED, MagnitudeRange()),
        Operation.rotate: MagnitudeRange(0, 30, signed=True),
        Operation.posterize: MagnitudeRange(4, -4, rounding=0.0) if increasing else MagnitudeRange(0, 4, rounding=0.0),
        Operation.solarize: MagnitudeRange(256, -256, rounding=0.0)
        if increasing
        else MagnitudeRange(0, 256, rounding=0.0),
        Operation.solarize_add: MagnitudeRange(0, 110, rounding=0.0),
        **dict.fromkeys(ENHANCEMENTS, MagnitudeRange(1, 0.9, signed=True) if increasing else MagnitudeRange(0.1, 1.8)),
        **dict.fromkeys(SHEARS, MagnitudeRange(0, 0.3, signed=True)),
        **dict.fromkeys(TRANSLATIONS, MagnitudeRange(0, 0.45, signed=True)),
    }


def autoaugment_ranges() -> MagnitudeRanges:
    """Return the ranges of the AutoAugment paper's table 6, levels in ninths."""
    return {
        **dict.fromkeys(FIXED, MagnitudeRange()),
        Operation.rotate: MagnitudeRange(0, 30, signed=True),
        Operation.posterize: MagnitudeRange(8, -4, rounding=0.5),
        Operation.solarize: MagnitudeRange(255, -255),
        **dict.fromkeys(ENHANCEMENTS, MagnitudeRange(1, 0.9, signed=True)),
        **dict.fromkeys(SHEARS, MagnitudeRange(0, 0.3, signed=True)),
        **dict.fromkeys(TRANSLATIONS, MagnitudeRange(0, 150 / 331, signed=True)),
    }


def trivial_ranges(frame: tuple[int, int]) -> MagnitudeRanges:
    """Return the wide ranges of TrivialAugment, levels in thirtieths; shifts of up to 32 pixels of the frame."""
    height, width = frame
    return {
        Operation.identity: MagnitudeRange(),
        Operation.autocontrast: MagnitudeRange(),
        Operation.equalize: MagnitudeRange(),
        Operation.rotate: MagnitudeRange(0, 135, signed=True),
        Operation.posterize: MagnitudeRange(8, -6, rounding=0.5),
        Operation.solarize: MagnitudeRange(255, -255),
        **dict.fromkeys(ENHANCEMENTS, MagnitudeRange(1, 0.99, signed=True)),
        **dict.fromkeys(SHEARS, MagnitudeRange(0, 0.99, signed=True)),
        Operation.translate_x: MagnitudeRange(0, 32 / width, signed=True),
        Operation.translate_y: MagnitudeRange(0, 32 / height, signed=True),
    }


def random_operations(
    config: AugmentationConfig, random: StatelessRandom, batch: int, frame: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Draw the operations of each image: int32 (B, n), and their arguments float32 (B, n), in the order to apply them.

    `frame` is height and width, in pixels, of the image in which the policy counts shifts.
    """
    if config.policy is Policy.randaugment:
        return _randaugment(config, random, batch)
    return _autoaugment(random, batch) if config.policy is Policy.autoaugment else _trivial(random, batch, frame)


def apply_operations(pixels: Tensor, operations: Tensor, arguments: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images after the colour operations, and the affine map (B, 2, 3) of the geometric ones."""
    # A loop of the backend, not of Python: XLA would compute the operations again for each pixel that reads them.
    pixels = ops.fori_loop(
        0,
        operations.shape[1],
        lambda index, images: apply_color(
            images, ops.take(operations, index, axis=1), ops.take(arguments, index, axis=1)
        ),
        pixels,
    )
    maps = [affine_map(operations[:, index], arguments[:, index]) for index in range(operations.shape[1])]
    return pixels, functools.reduce(compose, maps)


def _randaugment(config: AugmentationConfig, random: StatelessRandom, batch: int) -> tuple[Tensor, Tensor]:
    ranges = randaugment_ranges(config.policy_increasing)
    shape = (batch, config.policy_operations)
    operations = _draw_operations(ranges, random, shape)
    applied = random.uniform("policy/applied", shape) < RANDAUGMENT_PROBABILITY
    operations = ops.where(applied, operations, int(Operation.identity))
    magnitude, deviation = config.policy_magnitude, config.policy_magnitude_std
    if math.isinf(deviation):  # timm's notation for: uniform up to the magnitude
        level = random.uniform("policy/level", shape, 0.0, magnitude)
    else:
        level = magnitude + deviation * random.normal("policy/level", shape)
    return operations, _arguments(ranges, operations, ops.clip(level / 10.0, 0.0, 1.0), random)


def _autoaugment(random: StatelessRandom, batch: int) -> tuple[Tensor, Tensor]:
    # (sub-policies, 2 operations, operation with probability and level)
    table = ops.convert_to_tensor(np.array(CIFAR10_POLICY, "float32"))
    chosen = ops.take(table, _random_integers(len(CIFAR10_POLICY), random, "policy", (batch,)), axis=0)
    drawn, probability, level = chosen[..., 0], chosen[..., 1], chosen[..., 2] / 9.0
    applied = random.uniform("policy/applied", (batch, 2)) < probability
    operations = ops.where(applied, ops.cast(drawn, "int32"), int(Operation.identity))
    return operations, _arguments(autoaugment_ranges(), operations, level, random)


def _trivial(random: StatelessRandom, batch: int, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    ranges = trivial_ranges(frame)
    operations = _draw_operations(ranges, random, (batch, 1))
    level = ops.cast(_random_integers(TRIVIAL_LEVELS, random, "policy/level", (batch, 1)), "float32")
    level = level / (TRIVIAL_LEVELS - 1)
    return operations, _arguments(ranges, operations, level, random)


def _draw_operations(ranges: MagnitudeRanges, random: StatelessRandom, shape: tuple[int, ...]) -> Tensor:
    """Draw operations of those that have a range, all equally likely: int32."""
    choices = ops.convert_to_tensor(list(ranges), "int32")
    return ops.take(choices, _random_integers(len(ranges), random, "policy", shape))


def _random_integers(count: int, random: StatelessRandom, salt: str, shape: tuple[int, ...]) -> Tensor:
    """Draw integers below `count`, all equally likely."""
    return ops.minimum(ops.cast(random.uniform(salt, shape) * count, "int32"), count - 1)


def _arguments(ranges: MagnitudeRanges, operations: Tensor, level: Tensor, random: StatelessRandom) -> Tensor:
    """Turn the level of each operation into its argument."""

    table = [ranges.get(operation, MagnitudeRange()) for operation in Operation]

    def of_each(values: list[float]) -> Tensor:
        return ops.take(ops.convert_to_tensor(values, "float32"), operations)

    base = of_each([magnitude.base for magnitude in table])
    span = of_each([abs(magnitude.span) for magnitude in table])
    direction = of_each([math.copysign(1.0, magnitude.span) for magnitude in table])
    signed = of_each([float(magnitude.signed) for magnitude in table])
    whole = of_each([float(magnitude.rounding is not None) for magnitude in table])
    rounding = of_each([magnitude.rounding or 0.0 for magnitude in table])
    change = span * level
    change = ops.where(whole > 0, ops.floor(change + rounding), change)
    negative = (signed > 0) & (random.uniform("policy/sign", tuple(operations.shape)) < 0.5)
    return base + change * ops.where(negative, -1.0, direction)
