"""Resizing, cropping and normalising, against Keras' and Pillow's."""

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

from tnt_exp.model import Preprocess

pytestmark = pytest.mark.backend


@pytest.fixture
def photo():
    """A smooth image with noise, uint8 (60, 80, 3)."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:60, 0:80] / 20
    waves = np.stack([np.sin(x + y), np.cos(2 * x - y), np.sin(3 * y)], axis=-1)
    return np.clip(127 + 70 * waves + random.normal(0, 8, waves.shape), 0, 255).astype("uint8")


def _raw(photo, size, **options):
    """The preprocessed image in 0..255."""
    layer = Preprocess(size, mean=(0.0,), std=(1.0,), **options)
    return 255 * np.asarray(ops.convert_to_numpy(layer(photo[None])))[0]


@pytest.mark.parametrize("size", [3, 20, 60, 96])
def test_bilinear_is_that_of_the_keras_example(photo, size):
    square = photo[:, :60]
    expected = np.asarray(ops.convert_to_numpy(keras.layers.Resizing(size, size)(square[None].astype("float32"))))[0]
    if size >= 60:  # where it shrinks, ours looks at every pixel and Keras' does not
        np.testing.assert_allclose(_raw(square, size), expected, atol=1e-3)
    else:
        assert np.abs(_raw(square, size) - expected).max() > 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [17, 45, 90])
def test_resize_is_that_of_pillow(photo, interpolation, size):
    square = photo[:, :60]
    expected = np.asarray(Image.fromarray(square).resize((size, size), getattr(Image, interpolation.upper())))
    # Pillow rounds to whole numbers after each of its two passes, and the second may enlarge what the first rounded.
    np.testing.assert_allclose(_raw(square, size, interpolation=interpolation), expected, atol=1.3)


@pytest.mark.parametrize("size", [(60, 80), (80, 60)])
def test_crop_is_that_of_the_published_weights(photo, size):
    """Resize the short side to 40 / 0.9, rounded down, then keep the middle: torchvision's Resize and CenterCrop."""
    image = photo if size == (60, 80) else photo.transpose(1, 0, 2)
    width, height = (58, 44) if size == (60, 80) else (44, 58)
    large = np.asarray(Image.fromarray(image).resize((width, height), Image.BICUBIC))
    top, left = round((height - 40) / 2), round((width - 40) / 2)
    expected = large[top : top + 40, left : left + 40]
    received = _raw(image, 40, interpolation="bicubic", crop_fraction=0.9)
    np.testing.assert_allclose(received, expected, atol=1.3)


def test_short_side_of_published_sizes():
    layer = Preprocess(224, crop_fraction=0.9)
    rows, columns = (np.asarray(ops.convert_to_numpy(m)) for m in layer.matrices(248, 248))
    expected = np.eye(248, dtype="float32")[12:236]  # 248 px stay as they are; the middle 224 are kept
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    np.testing.assert_allclose(columns, expected, atol=1e-6)


def test_nothing_to_do_changes_no_bit(photo):
    square = photo[:, :60]
    np.testing.assert_array_equal(np.round(_raw(square, 60)), square)
    layer = Preprocess(60, mean=(0.0,), std=(1 / 255,))
    np.testing.assert_array_equal(np.asarray(ops.convert_to_numpy(layer(square[None])))[0], square.astype("float32"))


def test_mean_and_std_of_each_channel(photo):
    layer = Preprocess(60, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    expected = (photo[None, :, :60] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(ops.convert_to_numpy(layer(photo[None, :, :60])), expected, atol=1e-5)


def test_floats_and_whole_numbers_are_the_same(photo):
    np.testing.assert_array_equal(_raw(photo, 32), _raw(photo.astype("float32"), 32))


def test_sizes_may_change_within_a_process(photo):
    """TensorFlow gives up static shapes after the second size; the result is the same."""
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, Preprocess(40, interpolation="bicubic", crop_fraction=0.9)(inputs))
    for image in (photo, photo[:50], photo[:, :61], photo[:33, :70]):
        received = model.predict(image[None], verbose=0)[0]
        expected = _raw(image, 40, interpolation="bicubic", crop_fraction=0.9) / 127.5 - 1
        np.testing.assert_allclose(received, expected, atol=2e-4)


def test_output_shape_is_known_without_running():
    assert Preprocess(40).compute_output_shape((None, None, None, 3)) == (None, 40, 40, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_fraction": 0.0}, "Expected crop_fraction in"),
        ({"crop_fraction": 1.1}, "Expected crop_fraction in"),
        ({"std": (0.0,)}, "Expected std above 0"),
        ({"interpolation": "lanczos"}, "Expected interpolation to be"),
    ],
)
def test_impossible_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocess(8, **options)


@pytest.mark.parametrize("key", ["mean", "std"])
def test_numbers_must_fit_the_channels(photo, key):
    with pytest.raises(ValueError, match=f"Expected {key} to be one number or 3, one per channel"):
        Preprocess(8, **{key: (0.5, 0.5)})(photo[None])
