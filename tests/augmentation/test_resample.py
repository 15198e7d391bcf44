"""The bilinear sample against NumPy: resize, fills, average of blocks, both ways of computing it."""

import keras
import numpy as np
import pytest
from PIL import Image

from tnt_exp.augmentation.geometry import sample
from tnt_exp.config.augmentation import Fill

pytestmark = pytest.mark.backend


def call(pixels, maps, size, fill=Fill.constant, axis_aligned=False):
    maps = None if maps is None else keras.ops.convert_to_tensor(np.asarray(maps, "float32"))
    pixels = keras.ops.convert_to_tensor(np.asarray(pixels, "float32"))
    return keras.ops.convert_to_numpy(sample(pixels, maps, size, fill, axis_aligned))


def resized(image: np.ndarray, size: int, box: tuple[float, ...] | None = None) -> np.ndarray:
    """Pillow's bilinear resize of (h, w, C), or of a box of it (left, top, right, bottom), filtered if it shrinks."""
    planes = [Image.fromarray(plane.astype("float32")) for plane in np.moveaxis(image, -1, 0)]
    return np.stack([plane.resize((size, size), Image.Resampling.BILINEAR, box) for plane in planes], axis=-1)


def looked_up(image: np.ndarray, x: np.ndarray, y: np.ndarray, fill: Fill) -> np.ndarray:
    """Bilinear value of (h, w, C) at points in pixels, borders by padding the array."""
    height, width = image.shape[:2]
    mode = {Fill.constant: "edge", Fill.edge: "edge", Fill.reflect: "symmetric"}[fill]
    around = 3 * max(height, width)
    padded = np.pad(image, [(around, around), (around, around), (0, 0)], mode=mode)
    px, py = x - 0.5 + around, y - 0.5 + around
    left, top = np.floor(px).astype(int), np.floor(py).astype(int)
    across, down = (px - left)[..., None], (py - top)[..., None]
    value = (1 - down) * ((1 - across) * padded[top, left] + across * padded[top, left + 1])
    value = value + down * ((1 - across) * padded[top + 1, left] + across * padded[top + 1, left + 1])
    inside = (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return np.where(inside[..., None], value, 0) if fill is Fill.constant else value


@pytest.mark.parametrize("size", [5, 8, 16, 20, 31, 32, 45, 96])
def test_no_maps_is_a_plain_resize(images, size):
    result = call(images, None, size)
    np.testing.assert_allclose(result, [resized(image, size) for image in images], atol=0.01)


@pytest.mark.parametrize("size", [8, 18, 24])
def test_a_box_that_shrinks_is_filtered_as_pillow_does(images, size):
    random = np.random.default_rng(6)
    sides, places = random.uniform(6, 32, (len(images), 2)), random.uniform(0, 1, (len(images), 2))
    start = places * (32 - sides)
    maps = np.zeros((len(images), 2, 3))
    maps[:, 0, 0], maps[:, 1, 1] = sides.T / 32
    maps[:, :, 2] = (start + sides / 2) / 32 - 0.5
    result = call(images, maps, size, axis_aligned=True)
    expected = [resized(image, size, (*s, *(s + d))) for image, s, d in zip(images, start, sides, strict=True)]
    np.testing.assert_allclose(result, expected, atol=0.02)


@pytest.mark.parametrize("side", [36, 48, 64])
def test_a_turned_image_that_shrinks_is_filtered_by_as_much(side):
    image = np.random.default_rng(7).uniform(0, 255, (side, side, 2))
    turned = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0]])
    places = np.arange(side)
    triangle = np.maximum(1 - np.abs(places - places[:, None]) / (side / 32), 0)
    triangle /= triangle.sum(axis=1, keepdims=True)
    blurred = np.einsum("ij,kl,jlc->ikc", triangle, triangle, image)
    expected = looked_up(blurred, *points(turned, 32, side), Fill.edge)
    np.testing.assert_allclose(call(image[None], turned[None], 32, Fill.edge)[0], expected, atol=0.05)


@pytest.mark.parametrize("side", [48, 64, 100])
def test_the_finest_stripes_are_nearly_grey_after_turning_and_shrinking(side):
    stripes = np.broadcast_to(np.arange(side) % 2 * 255.0, (side, side))[..., None]
    turned = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0]])
    unfiltered = looked_up(stripes, *points(turned, 32, side), Fill.edge)[8:24, 8:24].std()
    assert call(stripes[None], turned[None], 32, Fill.edge)[0, 8:24, 8:24].std() < unfiltered / 2


def points(matrix, size, side):
    u = (np.arange(size) + 0.5) / size - 0.5
    return [(a * u[None, :] + b * u[:, None] + c + 0.5) * side for a, b, c in matrix]


def test_no_maps_and_no_change_of_size_is_exact(images):
    np.testing.assert_array_equal(call(images, None, 32), images)


def test_resize_equals_the_layer_of_keras(images):
    layer = keras.layers.Resizing(80, 80)
    expected = keras.ops.convert_to_numpy(layer(keras.ops.convert_to_tensor(images.astype("float32"))))
    np.testing.assert_allclose(call(images, None, 80), expected, atol=0.01)


@pytest.mark.parametrize("fill", Fill)
def test_arbitrary_maps(images, fill):
    random = np.random.default_rng(4)
    given = images[:, :20]  # 20 x 32: the axes must not be mistaken for each other
    maps = random.normal(0, 0.8, (len(given), 2, 3)).astype("float32")
    u = (np.arange(32) + 0.5) / 32 - 0.5
    result = call(given, maps, 32, fill)
    for image, matrix, output in zip(given.astype("float64"), maps.astype("float64"), result, strict=True):
        x = (matrix[0, 0] * u[None, :] + matrix[0, 1] * u[:, None] + matrix[0, 2] + 0.5) * 32
        y = (matrix[1, 0] * u[None, :] + matrix[1, 1] * u[:, None] + matrix[1, 2] + 0.5) * 20
        expected = looked_up(image, x, y, fill)
        # A point on the very border is inside or outside by its last bit.
        at_border = np.minimum.reduce([np.abs(x), np.abs(x - 32), np.abs(y), np.abs(y - 20)]) < 1e-4
        np.testing.assert_allclose(output[~at_border], expected[~at_border], atol=0.05)


@pytest.mark.parametrize("fill", Fill)
def test_matmuls_equal_gathers(images, fill):
    random = np.random.default_rng(5)
    maps = np.zeros((len(images), 2, 3), "float32")
    maps[:, 0, 0], maps[:, 1, 1] = random.uniform(0.3, 1.9, (2, len(images))) * random.choice([-1, 1], (2, len(images)))
    maps[:, :, 2] = random.uniform(-0.5, 0.5, (len(images), 2))
    slow, fast = (call(images, maps, 40, fill, axis_aligned) for axis_aligned in (False, True))
    np.testing.assert_allclose(fast, slow, atol=0.05)


@pytest.mark.parametrize("axis_aligned", [False, True])
@pytest.mark.parametrize("fill", Fill)
def test_identity_map_gives_the_identical_image(images, fill, axis_aligned):
    identity = np.broadcast_to(np.eye(2, 3), (len(images), 2, 3))
    np.testing.assert_array_equal(call(images, identity, 32, fill, axis_aligned), images)


@pytest.mark.parametrize("shape", [(77, 101), (33, 90), (40, 48)])
def test_shrinking_of_any_size_keeps_mean_and_ramp(shape):
    ramp = np.broadcast_to(np.arange(shape[1] * 1.0)[None, None, :, None], (1, *shape, 1))
    expected = (np.arange(20) + 0.5) * shape[1] / 20 - 0.5
    for maps in (None, [np.eye(2, 3)]):
        result = call(ramp, maps, 20)
        np.testing.assert_allclose(result, np.broadcast_to(result[:, :1], result.shape), atol=0.01)
        np.testing.assert_allclose(result[0, 0, 1:-1, 0], expected[1:-1], atol=0.6)
