"""Random erasing: the distribution of its boxes against timm's, and the noise in them."""

import keras
import numpy as np
import pytest
from scipy import stats

from tnt_exp.augmentation.mixing import erase, random_boxes
from tnt_exp.augmentation.stateless_random import StatelessRandom

pytestmark = pytest.mark.backend

DRAWS, SIZE = 10_000, 32


def reference_boxes(count: int) -> np.ndarray:
    """timm's RandomErasing._erase in NumPy: (height, width, top, left) of each box."""
    random = np.random.default_rng(8)
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = random.uniform(0.02, 1 / 3) * SIZE**2
            aspect = np.exp(random.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if w < SIZE and h < SIZE:
                boxes.append((h, w, random.integers(0, SIZE - h + 1), random.integers(0, SIZE - w + 1)))
                break
    return np.array(boxes)


def boxes_of(masks: np.ndarray) -> np.ndarray:
    """(height, width, top, left) of masks that are one full box each."""
    rows, columns = masks.any(2), masks.any(1)
    np.testing.assert_array_equal(masks, rows[:, :, None] & columns[:, None, :])
    for sides in (rows, columns):
        steps = np.diff(np.pad(sides, [(0, 0), (1, 1)]).astype(int), axis=1)
        assert ((steps == 1).sum(1) == 1).all()
    return np.stack([rows.sum(1), columns.sum(1), rows.argmax(1), columns.argmax(1)], 1)


def test_boxes_have_the_distribution_of_timm():
    masks = keras.ops.convert_to_numpy(random_boxes(1.0, StatelessRandom(3, 0), DRAWS, SIZE))
    result, expected = boxes_of(masks), reference_boxes(DRAWS)
    for column in range(4):
        assert stats.ks_2samp(result[:, column], expected[:, column]).pvalue > 0.001
    assert stats.ks_2samp(result[:, 0] * result[:, 1], expected[:, 0] * expected[:, 1]).pvalue > 0.001


def test_rate():
    masks = keras.ops.convert_to_numpy(random_boxes(0.25, StatelessRandom(3, 1), DRAWS, SIZE))
    assert stats.binomtest(int(masks.any((1, 2)).sum()), DRAWS, 0.25).pvalue > 0.001


def test_noise_inside_the_image_outside():
    inputs = np.full((256, SIZE, SIZE, 3), 50.0, "float32")
    result = keras.ops.convert_to_numpy(erase(keras.ops.convert_to_tensor(inputs), 0.5, StatelessRandom(3, 2)))
    masks = keras.ops.convert_to_numpy(random_boxes(0.5, StatelessRandom(3, 2), 256, SIZE))
    np.testing.assert_array_equal(result[~masks], 50.0)
    noise = result[masks].ravel()
    assert stats.kstest(noise[:DRAWS], stats.norm.cdf).pvalue > 0.001
    assert len(np.unique(noise)) > 0.99 * len(noise)
