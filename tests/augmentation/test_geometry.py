"""Maps: each change alone, their composition, and the distributions of the random ones."""

import keras
import numpy as np
import pytest
from scipy import stats

from tnt_exp.augmentation.geometry import compose, random_geometry, sample
from tnt_exp.augmentation.stateless_random import StatelessRandom
from tnt_exp.config.augmentation import AugmentationConfig, Fill

pytestmark = pytest.mark.backend

DRAWS = 10_000


def maps(batch=DRAWS, source=(32, 32), step=0, **fields) -> np.ndarray:
    drawn = random_geometry(AugmentationConfig(**fields), StatelessRandom(11, step), batch, source)
    return keras.ops.convert_to_numpy(drawn).astype("float64")


def uniform(sample: np.ndarray, low: float, high: float) -> float:
    return stats.kstest(sample, stats.uniform(low, high - low).cdf).pvalue


def test_nothing_asked_nothing_moved():
    assert random_geometry(AugmentationConfig(), StatelessRandom(0, 0), 4, (32, 32)) is None


@pytest.mark.parametrize(("field", "row"), [("horizontal_flip", 0), ("vertical_flip", 1)])
def test_flip_rate_and_effect(field, row):
    drawn = maps(**{field: 0.3})
    flipped = drawn[:, row, row] < 0
    assert stats.binomtest(int(flipped.sum()), DRAWS, 0.3).pvalue > 0.001
    expected = np.eye(2, 3)
    expected[row, row] = -1
    np.testing.assert_array_equal(drawn[flipped], np.broadcast_to(expected, drawn[flipped].shape))
    np.testing.assert_array_equal(drawn[~flipped], np.broadcast_to(np.eye(2, 3), drawn[~flipped].shape))


def test_both_flips_are_independent():
    drawn = maps(horizontal_flip=0.5, vertical_flip=0.5)
    table = np.histogram2d(drawn[:, 0, 0], drawn[:, 1, 1], bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_rotation_angles():
    drawn = maps(rotation=36)
    angles = np.degrees(np.arctan2(drawn[:, 1, 0], drawn[:, 0, 0]))
    assert uniform(angles, -36, 36) > 0.001
    np.testing.assert_allclose(np.linalg.det(drawn[:, :, :2]), 1, atol=1e-6)
    np.testing.assert_allclose(drawn[:, 0, 0], drawn[:, 1, 1], atol=1e-6)


def test_zoom_of_height_and_width_apart():
    drawn = maps(zoom=0.2)
    assert uniform(drawn[:, 0, 0], 0.8, 1.2) > 0.001
    assert uniform(drawn[:, 1, 1], 0.8, 1.2) > 0.001
    assert stats.pearsonr(drawn[:, 0, 0], drawn[:, 1, 1]).pvalue > 0.001


def test_shear_angles():
    drawn = maps(shear=25)
    for entry in (drawn[:, 0, 1], drawn[:, 1, 0]):
        assert uniform(np.degrees(np.arctan(entry)), -25, 25) > 0.001


def test_translation():
    drawn = maps(translation=0.3)
    for row in (0, 1):
        assert uniform(drawn[:, row, 2], -0.3, 0.3) > 0.001


def test_padded_crop_is_a_crop_of_the_padded_image(images):
    padding = 3
    drawn = maps(batch=len(images), crop_padding=padding)
    pixels = keras.ops.convert_to_tensor(images.astype("float32"))
    moved = sample(pixels, keras.ops.convert_to_tensor(drawn.astype("float32")), 32, Fill.constant, axis_aligned=True)
    shifts = np.round(drawn[:, :, 2] * 32).astype(int)
    assert len({tuple(shift) for shift in shifts}) > 3
    for image, (x, y), result in zip(images, shifts, keras.ops.convert_to_numpy(moved), strict=True):
        padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
        expected = padded[padding + y : padding + y + 32, padding + x : padding + x + 32]
        np.testing.assert_array_equal(result, expected)


def test_padded_crop_places_are_all_equally_likely():
    shifts = np.round(maps(crop_padding=2, source=(40, 32))[:, :, 2] * [32, 40]).astype(int)
    table = np.histogram2d(shifts[:, 0], shifts[:, 1], bins=5, range=[[-2.5, 2.5]] * 2)[0]
    assert table.sum() == DRAWS
    assert stats.chisquare(table.ravel()).pvalue > 0.001


def reference_crops(height, width, scale, ratio, count):
    """torchvision's RandomResizedCrop.get_params in NumPy: (height, width) and (top, left) of each box."""
    random = np.random.default_rng(3)
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = height * width * random.uniform(*scale)
            aspect = np.exp(random.uniform(*np.log(ratio)))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                boxes.append((h, w, random.integers(0, height - h + 1), random.integers(0, width - w + 1)))
                break
        else:
            w, h = width, height
            if width / height < ratio[0]:
                h = round(width / ratio[0])
            elif width / height > ratio[1]:
                w = round(height * ratio[1])
            boxes.append((h, w, (height - h) // 2, (width - w) // 2))
    return np.array(boxes)


@pytest.mark.parametrize("source", [(64, 64), (40, 72)])
def test_random_resized_crop_has_the_distribution_of_torchvision(source):
    height, width = source
    scale, ratio = [0.08, 1.0], [0.75, 4 / 3]
    drawn = maps(source=source, crop_scale=scale, crop_ratio=ratio)
    w, h = drawn[:, 0, 0] * width, drawn[:, 1, 1] * height
    left, top = (drawn[:, 0, 2] + 0.5) * width - w / 2, (drawn[:, 1, 2] + 0.5) * height - h / 2
    result = np.round(np.stack([h, w, top, left], 1), 3)
    assert (result[:, :2] >= 1).all()
    assert (result[:, 2:] >= 0).all()
    assert (result[:, 2:] + result[:, :2] <= [height, width]).all()
    np.testing.assert_array_equal(result, np.round(result))
    expected = reference_crops(height, width, scale, ratio, DRAWS)
    for column in range(4):
        assert stats.ks_2samp(result[:, column], expected[:, column]).pvalue > 0.001
    assert stats.ks_2samp(h * w, expected[:, 0] * expected[:, 1]).pvalue > 0.001


def test_a_crop_that_never_fits_is_central():
    # Half the area of a 10 x 100 image at a ratio of about 1 is wider than high: nothing fits.
    drawn = maps(batch=4, source=(10, 100), crop_scale=[0.5, 1.0], crop_ratio=[0.9, 1.1])
    expected = [[0.11, 0, 44 / 100 + 0.055 - 0.5], [0, 1, 0]]
    np.testing.assert_allclose(drawn, np.broadcast_to(expected, drawn.shape), atol=1e-6)


def test_composition_equals_the_chain():
    # A smooth image, so that interpolating several times changes little.
    y, x = np.mgrid[0:64, 0:64] / 64
    image = 127 + 100 * np.sin(2 * np.pi * x) * np.cos(2 * np.pi * y) + 20 * x
    pixels = keras.ops.convert_to_tensor(np.broadcast_to(image[None, ..., None], (6, 64, 64, 1)).astype("float32"))
    alone = [
        maps(batch=6, step=step, **fields).astype("float32")
        for step, fields in enumerate(
            [
                {"crop_padding": 4},
                {"horizontal_flip": 0.5},
                {"rotation": 20},
                {"shear": 10},
                {"zoom": 0.2},
                {"translation": 0.1},
            ]
        )
    ]
    tensors = [keras.ops.convert_to_tensor(each) for each in alone]
    chain, composed = pixels, tensors[0]
    for each in tensors:
        chain = sample(chain, each, 64, Fill.edge, axis_aligned=False)
    for each in tensors[1:]:
        composed = compose(composed, each)
    once = sample(pixels, composed, 64, Fill.edge, axis_aligned=False)
    difference = np.abs(keras.ops.convert_to_numpy(chain) - keras.ops.convert_to_numpy(once))[:, 20:44, 20:44]
    # Each of six interpolations of this curvature errs by at most a quarter of a level or so.
    assert difference.max() < 1.5
    assert difference.mean() < 0.5


def test_all_at_once_is_the_composition_in_the_documented_order():
    fields = {
        "crop_scale": [0.3, 1.0],
        "crop_padding": 2,
        "horizontal_flip": 0.5,
        "vertical_flip": 0.5,
        "rotation": 30,
        "shear": 10,
        "zoom": 0.3,
        "translation": 0.2,
    }
    groups = [
        ["crop_scale"],
        ["crop_padding"],
        ["horizontal_flip", "vertical_flip"],
        ["rotation"],
        ["shear"],
        ["zoom"],
        ["translation"],
    ]
    expected = np.broadcast_to(np.eye(3), (16, 3, 3))
    for group in groups:
        part = maps(batch=16, **{name: fields[name] for name in group})
        expected = expected @ np.concatenate([part, np.broadcast_to([[[0, 0, 1]]], (16, 1, 3))], 1)
    np.testing.assert_allclose(maps(batch=16, **fields), expected[:, :2], atol=1e-5)
