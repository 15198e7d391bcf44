"""Random changes of training images on the device, inside the compiled step."""

from tnt_exp.augmentation.pipeline import Augmentation

__all__ = ["Augmentation"]
