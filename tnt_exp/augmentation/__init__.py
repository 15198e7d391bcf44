"""Augmentation of training images on the device, inside the compiled training step."""

from tnt_exp.augmentation.pipeline import Augmentation

__all__ = ["Augmentation"]
