"""The policies' operations against Pillow, which the papers' code used."""

import keras
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tnt_exp.augmentation.geometry import sample
from tnt_exp.augmentation.operations import Operation, affine_map, apply_color
from tnt_exp.config.augmentation import Fill

pytestmark = pytest.mark.backend


def solarize_add(image: Image.Image, amount: float) -> Image.Image:
    return image.point(
        [min(255, value + int(amount)) if value < 128 else value for value in range(256)] * len(image.getbands())
    )


CASES = {
    Operation.identity: (lambda image, _: image, [0.0]),
    Operation.autocontrast: (lambda image, _: ImageOps.autocontrast(image), [0.0]),
    Operation.equalize: (lambda image, _: ImageOps.equalize(image), [0.0]),
    Operation.invert: (lambda image, _: ImageOps.invert(image), [0.0]),
    Operation.posterize: (lambda image, bits: ImageOps.posterize(image, int(bits)), [1.0, 2.0, 4.0, 7.0]),
    Operation.solarize: (ImageOps.solarize, [0.0, 26.0, 128.0, 255.0, 256.0]),
    Operation.solarize_add: (solarize_add, [0.0, 11.0, 99.0, 110.0]),
    Operation.brightness: (lambda image, by: ImageEnhance.Brightness(image).enhance(by), [0.0, 0.1, 0.7, 1.0, 1.9]),
    Operation.contrast: (lambda image, by: ImageEnhance.Contrast(image).enhance(by), [0.0, 0.1, 0.7, 1.0, 1.9]),
    Operation.color: (lambda image, by: ImageEnhance.Color(image).enhance(by), [0.0, 0.1, 0.7, 1.0, 1.9]),
    Operation.sharpness: (lambda image, by: ImageEnhance.Sharpness(image).enhance(by), [0.0, 0.1, 0.7, 1.0, 1.9]),
}


def hard_images(channels: int) -> np.ndarray:
    """Noise, a narrow range, two values, one value, a ramp: uint8 (5, 20, 24, channels)."""
    random = np.random.default_rng(1)
    shape = (20, 24, channels)
    ramp = np.broadcast_to(np.linspace(0, 255, 24)[None, :, None], shape)
    pictures = [
        random.integers(0, 256, shape),
        random.integers(100, 131, shape),
        random.choice([17, 201], shape),
        np.full(shape, 93),
        ramp,
    ]
    return np.stack(pictures).astype("uint8")


def as_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def apply(images: np.ndarray, operation: Operation, argument: float) -> np.ndarray:
    count = len(images)
    pixels = keras.ops.convert_to_tensor(images.astype("float32"))
    operations = keras.ops.full((count,), int(operation), dtype="int32")
    return keras.ops.convert_to_numpy(apply_color(pixels, operations, keras.ops.full((count,), argument, "float32")))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", CASES, ids=lambda operation: operation.name)
def test_equals_pillow(operation, channels):
    reference, arguments = CASES[operation]
    given = hard_images(channels)
    for argument in arguments:
        result = apply(given, operation, argument)
        expected = np.stack([np.asarray(reference(as_pillow(image), argument)).reshape(image.shape) for image in given])
        np.testing.assert_allclose(result, expected, atol=1, err_msg=f"{operation.name} {argument}")
        # One level of rounding is rare, not the rule.
        assert np.mean(result != expected) < 0.01, f"{operation.name} {argument}"


@pytest.mark.parametrize("operation", [Operation.brightness, Operation.contrast, Operation.color, Operation.sharpness])
def test_factor_one_changes_nothing(operation):
    given = hard_images(3)
    np.testing.assert_array_equal(apply(given, operation, 1.0), given)


def test_each_image_has_its_own_operation():
    image = hard_images(3)[0]
    names = list(Operation)
    given = np.stack([image] * len(names))
    arguments = np.array([CASES[name][1][-1] if name in CASES else 0.3 for name in names], "float32")
    result = keras.ops.convert_to_numpy(
        apply_color(
            keras.ops.convert_to_tensor(given.astype("float32")),
            keras.ops.convert_to_tensor(names, "int32"),
            keras.ops.convert_to_tensor(arguments),
        )
    )
    for place, name in enumerate(names):
        expected = apply(given[:1], name, arguments[place])[0] if name in CASES else image
        np.testing.assert_array_equal(result[place], expected, err_msg=name.name)


# What Pillow is asked for, as timm asks: the map from output to input in pixels.
GEOMETRIC = {
    Operation.shear_x: lambda by, w, h: (1, by, 0, 0, 1, 0),
    Operation.shear_y: lambda by, w, h: (1, 0, 0, by, 1, 0),
    Operation.translate_x: lambda by, w, h: (1, 0, by * w, 0, 1, 0),
    Operation.translate_y: lambda by, w, h: (1, 0, 0, 0, 1, by * h),
}


@pytest.mark.parametrize("argument", [-0.27, 0.0, 0.13, 0.3])
@pytest.mark.parametrize("operation", GEOMETRIC, ids=lambda operation: operation.name)
def test_geometry_equals_pillow(operation, argument, images):
    expected = []
    for channel in np.moveaxis(images[0].astype("float32"), -1, 0):
        matrix = GEOMETRIC[operation](argument, 32, 32)
        picture = Image.fromarray(channel).transform(
            (32, 32), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        expected.append(np.asarray(picture))
    np.testing.assert_allclose(moved(images[:1], operation, argument)[0], np.stack(expected, -1), atol=0.05)


@pytest.mark.parametrize("degrees", [-30.0, 0.0, 11.0, 90.0, 135.0])
def test_rotation_equals_pillow(degrees, images):
    result = moved(images[:1], Operation.rotate, degrees)[0]
    planes = [
        Image.fromarray(plane).rotate(degrees, Image.Resampling.BILINEAR)
        for plane in np.moveaxis(images[0].astype("float32"), -1, 0)
    ]
    expected = np.stack([np.asarray(plane) for plane in planes], -1)
    # Where a sample falls on the very border, inside and outside are a matter of the last bit.
    inside = (expected != 0).any(-1) == (result > 1e-3).any(-1)
    assert inside.mean() > 0.98
    np.testing.assert_allclose(result[inside], expected[inside], atol=0.05)


def moved(images: np.ndarray, operation: Operation, argument: float) -> np.ndarray:
    maps = affine_map(
        keras.ops.convert_to_tensor([int(operation)], "int32"), keras.ops.convert_to_tensor([argument], "float32")
    )
    pixels = keras.ops.convert_to_tensor(images.astype("float32"))
    return keras.ops.convert_to_numpy(sample(pixels, maps, images.shape[1], Fill.constant, axis_aligned=False))
