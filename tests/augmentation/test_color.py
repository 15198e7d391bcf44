"""Colour jitter against references written here, and its random factors."""

import colorsys

import keras
import numpy as np
import pytest
from scipy import stats

from tnt_exp.augmentation import color
from tnt_exp.augmentation.stateless_random import StatelessRandom
from tnt_exp.config.augmentation import AugmentationConfig

pytestmark = pytest.mark.backend

LUMA = np.array([0.299, 0.587, 0.114])


def reference(name: str, images: np.ndarray, factor: float) -> np.ndarray:
    """torchvision's adjust_* on float images."""
    images = images.astype("float64")
    grey = (images * LUMA).sum(-1, keepdims=True)
    other = {"brightness": 0.0, "contrast": grey.mean((1, 2, 3), keepdims=True), "saturation": grey}[name]
    return np.clip(factor * images + (1 - factor) * other, 0, 255)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_equals_the_reference(images, name, factor):
    pixels = keras.ops.convert_to_tensor(images.astype("float32"))
    result = getattr(color, name)(pixels, keras.ops.full((len(images),), factor, "float32"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result), reference(name, images, factor), atol=0.05)


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 0.37])
def test_hue_equals_the_standard_library(images, turn):
    given = np.concatenate(
        [
            images[0, :8, :8].reshape(-1, 3),
            np.array([[0, 0, 0], [255, 255, 255], [9, 9, 9], [255, 0, 0], [0, 255, 255]], "uint8"),
        ]
    )
    expected = []
    for pixel in given / 255.0:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value))
    pixels = keras.ops.convert_to_tensor(given[None, None].astype("float32"))
    result = color.hue(pixels, keras.ops.full((1,), turn, "float32"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result)[0, 0], 255 * np.array(expected), atol=0.05)


def test_hue_of_no_turn_gives_the_identical_image(images):
    pixels = keras.ops.convert_to_tensor(images.astype("float32"))
    result = color.hue(pixels, keras.ops.zeros((len(images),)))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result), images, atol=1e-3)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_grey_images(name):
    given = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).astype("float32")
    result = getattr(color, name)(keras.ops.convert_to_tensor(given), keras.ops.full((3,), 0.5, "float32"))
    expected = given
    if name in ("brightness", "contrast"):
        expected = 0.5 * given + (0.5 * given.mean((1, 2, 3), keepdims=True) if name == "contrast" else 0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(result), expected, atol=0.01)


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, 0.6, 1.4), (1.5, 0.0, 2.5)])
def test_factors_are_uniform(strength, low, high):
    given = keras.ops.full((10_000, 1, 1, 1), 100.0, "float32")
    result = color.jitter(given, AugmentationConfig(brightness=strength), StatelessRandom(2, 5))
    factors = keras.ops.convert_to_numpy(result).ravel() / 100
    assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 0.001


def test_turns_of_hue_are_uniform():
    given = keras.ops.convert_to_tensor(np.broadcast_to(np.array([255, 0, 0], "float32"), (10_000, 1, 1, 3)))
    result = keras.ops.convert_to_numpy(color.jitter(given, AugmentationConfig(hue=0.3), StatelessRandom(2, 5)))
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in result.reshape(-1, 3) / 255])
    hues = np.where(hues > 0.5, hues - 1, hues)
    assert stats.kstest(hues, stats.uniform(-0.3, 0.6).cdf).pvalue > 0.001
