"""MixUp and CutMix: pixels and labels agree exactly, and the distributions are the papers'."""

import keras
import numpy as np
import pytest
from scipy import stats

from tnt_exp.augmentation.mixing import mix, partner_weight, symmetric_beta
from tnt_exp.augmentation.stateless_random import StatelessRandom
from tnt_exp.config.augmentation import AugmentationConfig

pytestmark = pytest.mark.backend

SIZE = 12


def marked(augment, **fields):
    """Augment eight images of one value each, 0 for the first half and 255 for the second, and classes likewise."""
    given = np.repeat(np.array([0, 255], "uint8"), 4)[:, None, None, None] * np.ones((1, SIZE, SIZE, 3), "uint8")
    return augment(given=given, classes=np.repeat([0, 1], 4), size=SIZE, **fields)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 3.0])
def test_lambda_has_the_law_of_beta(alpha):
    uniform = StatelessRandom(1, 0).uniform("test", (2, 10_000))
    drawn = keras.ops.convert_to_numpy(
        symmetric_beta(keras.ops.convert_to_tensor(alpha, "float32"), uniform[0], uniform[1])
    )
    assert np.isfinite(drawn).all()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_lambda_over_steps_has_the_law_of_beta():
    config = AugmentationConfig(mixup=0.8)
    shares = [float(partner_weight(config, StatelessRandom(4, step), SIZE, 1.0)[1]) for step in range(500)]
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 0.001


def reference_share(random, size: int, alpha: float) -> float:
    """timm's rand_bbox and correction of lambda in NumPy: part of the partner."""
    ratio = np.sqrt(1 - random.beta(alpha, alpha))
    cut = int(size * ratio)
    (cy, cx) = random.integers(0, size, 2)
    height = np.clip(cy + cut // 2, 0, size) - np.clip(cy - cut // 2, 0, size)
    width = np.clip(cx + cut // 2, 0, size) - np.clip(cx - cut // 2, 0, size)
    return height * width / size**2


def test_area_of_cutmix_has_the_law_of_timm():
    config = AugmentationConfig(cutmix=1.0)
    shares = [float(partner_weight(config, StatelessRandom(4, step), 32, 1.0)[1]) for step in range(500)]
    random = np.random.default_rng(0)
    expected = [reference_share(random, 32, 1.0) for _ in range(10_000)]
    assert stats.ks_2samp(shares, expected).pvalue > 0.001


def test_mixup_pixels_agree_with_labels(augment):
    for step in range(10):
        inputs, targets = marked(augment, step=step, mixup=1.0)
        for image, target in zip(inputs, targets, strict=True):
            np.testing.assert_allclose(image, target[1], atol=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(targets[0, :2] + targets[-1, :2], 1, atol=1e-6)


def test_cutmix_pixels_agree_with_labels(augment):
    cut = []
    for step in range(20):
        inputs, targets = marked(augment, step=step, cutmix=1.0)
        assert set(np.unique(inputs)) <= {0.0, 1.0}
        np.testing.assert_allclose(inputs.mean((1, 2, 3)), targets[:, 1], atol=1e-6)
        partner = inputs[0, ..., 0] == 1
        assert partner.sum() == partner.any(1).sum() * partner.any(0).sum()
        for image in inputs[4:]:
            np.testing.assert_array_equal(image[..., 0] == 0, partner)
        cut.append(partner.mean())
    assert len(set(cut)) > 10


def rates(count=300, mixing=1.0, **fields) -> dict[str, int]:
    counts = dict.fromkeys(("plain", "mixup", "cutmix"), 0)
    for step in range(count):
        weight, _, mixed = partner_weight(AugmentationConfig(**fields), StatelessRandom(4, step), SIZE, mixing)
        # A box of no area counts as CutMix too: MixUp's weight is never exactly 0.
        values = set(np.unique(keras.ops.convert_to_numpy(weight)))
        counts["plain" if not bool(mixed) else "cutmix" if values <= {0.0, 1.0} else "mixup"] += 1
    return counts


def test_switch_between_the_two():
    counts = rates(mixup=1.0, cutmix=1.0, cutmix_probability=0.3)
    assert counts["plain"] == 0
    assert stats.binomtest(counts["cutmix"], 300, 0.3).pvalue > 0.001
    assert rates(mixup=1.0)["mixup"] == rates(cutmix=1.0)["cutmix"] == 300


def test_probability_of_mixing():
    assert stats.binomtest(rates(mixup=1.0, mix_probability=0.4)["mixup"], 300, 0.4).pvalue > 0.001
    assert stats.binomtest(rates(mixup=1.0, mix_probability=0.8, mixing=0.5)["mixup"], 300, 0.4).pvalue > 0.001
    assert rates(mixup=1.0, mixing=0.0)["mixup"] == 0


def test_mixing_of_zero_changes_nothing(augment):
    plain = augment(horizontal_flip=0.5, smoothing=0.1)
    off = augment(horizontal_flip=0.5, smoothing=0.1, mixup=0.8, cutmix=1.0, mixing=0.0)
    for expected, result in zip(plain, off, strict=True):
        np.testing.assert_array_equal(result, expected)


def test_smoothing(augment):
    _, targets = augment(smoothing=0.1)
    np.testing.assert_allclose(targets[2], [0.02, 0.02, 0.92, 0.02, 0.02], atol=1e-6)
    _, mixed = marked(augment, smoothing=0.1, mixup=1.0)
    _, sharp = marked(augment, mixup=1.0)
    np.testing.assert_allclose(mixed, 0.9 * sharp + 0.02, atol=1e-6)


@pytest.mark.parametrize("mixing", [0.0, 0.5, 1.0])
def test_with_and_without_a_condition_the_numbers_are_the_same(mixing):
    config, random = AugmentationConfig(mixup=0.8, cutmix=1.0), np.random.default_rng(0)
    inputs = random.normal(size=(8, SIZE, SIZE, 3)).astype("float32")
    targets = keras.ops.one_hot(np.arange(8) % 5, 5, dtype="float32")
    for step in range(8):
        both = [
            mix(
                keras.ops.convert_to_tensor(inputs),
                targets,
                config,
                StatelessRandom(3, step),
                mixing,
                branching=branching,
            )
            for branching in (True, False)
        ]
        # XLA, which compiles JAX's condition, rounds a product and a sum once: the last bit may differ there.
        atol = 1e-6 if keras.config.backend() == "jax" else 0
        for one, other in zip(*both, strict=True):
            one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
            np.testing.assert_allclose(one, other, rtol=0, atol=atol)
