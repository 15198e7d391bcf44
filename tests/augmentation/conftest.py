"""Images, labels and a shorthand to augment them."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from tnt_exp.augmentation import Augmentation
from tnt_exp.config.augmentation import AugmentationConfig


@pytest.fixture
def images() -> np.ndarray:
    """Eight smooth colour images and noise, uint8 (8, 32, 32, 3)."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:32, 0:32] / 32
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in random.uniform(0, 1.5, (24, 3))]
    smooth = np.stack(waves).reshape(8, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.round(127.5 + 100 * smooth + random.uniform(-20, 20, smooth.shape)).clip(0, 255).astype("uint8")


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(8) % 5


@pytest.fixture
def augment(images, labels):
    """Augment with the given fields: NumPy inputs and targets, pixels in 0..1 by default."""

    def call(*, step=3, mixing=1.0, seed=7, size=32, given=images, classes=labels, smoothing=0.0, **fields):
        channels = given.shape[-1]
        augmentation = Augmentation(
            AugmentationConfig(**fields),
            image_size=size,
            mean=[0.0] * channels,
            std=[1.0] * channels,
            num_classes=5,
            label_smoothing=smoothing,
            seed=seed,
        )
        outputs = augmentation(keras.ops.convert_to_tensor(given), keras.ops.convert_to_tensor(classes), step, mixing)
        return tuple(keras.ops.convert_to_numpy(output) for output in outputs)

    return call


@pytest.fixture
def timm_auto_augment():
    """timm's own code of the policies, loaded alone: the package would import all of torchvision."""
    path = Path(importlib.util.find_spec("timm").origin).parent / "data" / "auto_augment.py"
    spec = importlib.util.spec_from_file_location("timm_auto_augment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
