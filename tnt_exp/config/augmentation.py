"""What happens to training images, inside the compiled step."""

from dataclasses import dataclass
from enum import Enum

from tnt_exp.config.field import config_field


class Fill(Enum):
    """What lies outside the image."""

    constant = "constant"  # black
    edge = "edge"  # the nearest pixel
    reflect = "reflect"  # mirrored, the border pixel repeated


class Policy(Enum):
    """A published policy of random operations."""

    none = "none"
    randaugment = "randaugment"  # arXiv 1909.13719, with timm's m, n, mstd, inc
    autoaugment = "autoaugment"  # arXiv 1805.09501, the CIFAR-10 policy
    trivial = "trivial"  # arXiv 2103.10158, TrivialAugment wide


@dataclass
class AugmentationConfig:
    """Random changes of a training image. Defaults change nothing.

    Geometry is composed into one bilinear sample straight from the source image.
    """

    name: str = config_field("none", "preset name, a tag of the run")
    fill: Fill = config_field(Fill.constant, "what lies outside the image")
    horizontal_flip: float = config_field(0.0, "probability of a left-right flip", ge=0, le=1)
    vertical_flip: float = config_field(0.0, "probability of an up-down flip", ge=0, le=1)
    rotation: float = config_field(0.0, "largest rotation either way, degrees", ge=0, le=180)
    zoom: float = config_field(
        0.0, "largest change of height and of width (drawn separately), fraction of the size", ge=0, lt=1
    )
    shear: float = config_field(0.0, "largest shear either way along x and along y, degrees", ge=0, lt=90)
    translation: float = config_field(0.0, "largest shift either way, fraction of the size", ge=0, le=1)
    crop_padding: int = config_field(0, "pad by this many source pixels, then crop at random", ge=0)
    crop_scale: list[float] | None = config_field(
        None, "random resized crop: smallest and largest fraction of the area; null: off", gt=0, le=1
    )
    crop_ratio: list[float] = config_field(
        [0.75, 4 / 3], "random resized crop: smallest and largest width / height", gt=0
    )
    brightness: float = config_field(0.0, "factor within 1 +- this", ge=0)
    contrast: float = config_field(0.0, "factor within 1 +- this", ge=0)
    saturation: float = config_field(0.0, "factor within 1 +- this", ge=0)
    hue: float = config_field(0.0, "largest rotation either way, fraction of the colour circle", ge=0, le=0.5)
    policy: Policy = config_field(Policy.none, "a published policy of random operations")
    policy_magnitude: float = config_field(9.0, "RandAugment m, of 10", ge=0, le=10)
    policy_operations: int = config_field(2, "RandAugment n, operations per image", ge=1)
    policy_magnitude_std: float = config_field(0.0, "RandAugment mstd, deviation of the magnitude", ge=0)
    policy_increasing: bool = config_field(True, "RandAugment inc: every operation grows with the magnitude")
    erasing: float = config_field(0.0, "probability of random erasing (arXiv 1708.04896)", ge=0, le=1)
    repeats: int = config_field(
        1, "how often each image is in a batch, augmented anew each time (arXiv 1901.09335)", ge=1
    )
    mixup: float = config_field(0.0, "alpha of MixUp (arXiv 1710.09412); 0: off", ge=0)
    cutmix: float = config_field(0.0, "alpha of CutMix (arXiv 1905.04899); 0: off", ge=0)
    cutmix_probability: float = config_field(0.5, "CutMix rather than MixUp where both are on", ge=0, le=1)
    mix_probability: float = config_field(1.0, "probability that a batch is mixed at all", ge=0, le=1)
    mix_off_epochs: int = config_field(0, "last epochs without mixing", ge=0)
