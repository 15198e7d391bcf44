"""Policies: which operation how often, and the argument at each level, against the papers' code."""

from collections import Counter

import keras
import numpy as np
import pytest
from scipy import stats

from tnt_exp.augmentation.operations import Operation
from tnt_exp.augmentation.policies import CIFAR10_POLICY, random_operations
from tnt_exp.augmentation.stateless_random import StatelessRandom
from tnt_exp.config.augmentation import AugmentationConfig, Policy

pytestmark = pytest.mark.backend

DRAWS = 10_000
GEOMETRIC = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}
ENHANCEMENTS = {"brightness", "contrast", "color", "sharpness"}


def drawn(frame=(32, 32), step=0, **fields) -> tuple[np.ndarray, np.ndarray]:
    """Names and arguments, each (n, DRAWS)."""
    operations, arguments = random_operations(AugmentationConfig(**fields), StatelessRandom(5, step), DRAWS, frame)
    names = np.array([which.name for which in Operation])[keras.ops.convert_to_numpy(operations)]
    return names.T, keras.ops.convert_to_numpy(arguments).T


def evenly(counts: Counter, names: set[str]) -> bool:
    assert set(counts) == names
    return stats.chisquare([counts[name] for name in sorted(names)]).pvalue > 0.001


RANDAUGMENT = GEOMETRIC | ENHANCEMENTS | {"autocontrast", "equalize", "invert", "posterize", "solarize", "solarize_add"}


def test_randaugment_takes_one_of_fifteen_half_the_time():
    names, _ = drawn(policy=Policy.randaugment, policy_operations=3)
    assert names.shape == (3, DRAWS)
    for row in names:
        assert stats.binomtest(int((row == "identity").sum()), DRAWS, 0.5).pvalue > 0.001
        assert evenly(Counter(row[row != "identity"]), RANDAUGMENT)
    together = np.histogram2d(names[0] == "identity", names[1] == "identity", bins=2)[0]
    assert stats.chi2_contingency(together).pvalue > 0.001


# At magnitude 9: the values |argument| of the signed ones, the arguments of the others, from timm's formulas.
RISING = {
    "rotate": 27,
    "shear_x": 0.27,
    "shear_y": 0.27,
    "translate_x": 0.405,
    "translate_y": 0.405,
    "solarize_add": 99,
}
INCREASING = RISING | {"posterize": 1, "solarize": 26}
PLAIN = RISING | dict.fromkeys(ENHANCEMENTS, 1.72) | {"posterize": 3, "solarize": 230}


@pytest.mark.parametrize("increasing", [True, False])
def test_randaugment_arguments_at_magnitude_nine(increasing):
    names, arguments = drawn(policy=Policy.randaugment, policy_magnitude=9, policy_increasing=increasing)
    for name, expected in (INCREASING if increasing else PLAIN).items():
        values = arguments[names == name]
        np.testing.assert_allclose(np.abs(values), expected, rtol=1e-5, err_msg=name)
        if name in GEOMETRIC:
            assert stats.binomtest(int((values < 0).sum()), len(values), 0.5).pvalue > 0.001
    if increasing:
        for name in ENHANCEMENTS:
            values = arguments[names == name]
            np.testing.assert_allclose(np.abs(values - 1), 0.81, rtol=1e-5)
            assert stats.binomtest(int((values < 1).sum()), len(values), 0.5).pvalue > 0.001


def test_randaugment_magnitude_is_normal_and_kept_within_bounds():
    names, arguments = drawn(policy=Policy.randaugment, policy_magnitude=9, policy_magnitude_std=0.5)
    levels = np.abs(arguments[names == "rotate"]) / 3
    assert levels.max() <= 10 + 1e-5
    inside = levels[levels < 10 - 1e-4]
    clipped = len(levels) - len(inside)
    assert stats.binomtest(clipped, len(levels), stats.norm(9, 0.5).sf(10)).pvalue > 0.001
    assert stats.kstest(inside, stats.truncnorm(-18, 2, 9, 0.5).cdf).pvalue > 0.001


def test_randaugment_infinite_deviation_is_uniform_up_to_the_magnitude():
    names, arguments = drawn(policy=Policy.randaugment, policy_magnitude=8, policy_magnitude_std=float("inf"))
    levels = np.abs(arguments[names == "rotate"]) / 3
    assert stats.kstest(levels, stats.uniform(0, 8).cdf).pvalue > 0.001


@pytest.mark.peers
@pytest.mark.parametrize("magnitude", [0, 1, 2.5, 5, 7, 9, 9.9, 10])
@pytest.mark.parametrize("increasing", [True, False])
def test_randaugment_arguments_equal_timm(increasing, magnitude, timm_auto_augment):
    names, arguments = drawn(policy=Policy.randaugment, policy_magnitude=magnitude, policy_increasing=increasing)
    transforms = timm_auto_augment._RAND_INCREASING_TRANSFORMS if increasing else timm_auto_augment._RAND_TRANSFORMS
    plain = {
        "TranslateXRel": "translate_x",
        "TranslateYRel": "translate_y",
        "ShearX": "shear_x",
        "ShearY": "shear_y",
        "AutoContrast": "autocontrast",
        "SolarizeAdd": "solarize_add",
    }
    seen = set()
    for timms in transforms:
        name = plain.get(timms, timms.removesuffix("Increasing").lower())
        seen.add(name)
        level_to_argument = timm_auto_augment.LEVEL_TO_ARG[timms]
        if level_to_argument is None:
            continue
        expected = {round(level_to_argument(magnitude, {})[0], 4) for _ in range(64)}
        assert {round(float(value), 4) for value in arguments[names == name]} == expected, name
    assert seen == RANDAUGMENT


def autoaugment_argument(name: str, level: int) -> set[float]:
    """torchvision's magnitudes of ten levels."""
    grid = {"rotate": 30, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 150 / 331, "translate_y": 150 / 331}
    if name in grid:
        value = np.linspace(0, grid[name], 10)[level]
        return {value, -value}
    if name in ENHANCEMENTS:
        value = np.linspace(0, 0.9, 10)[level]
        return {1 + value, 1 - value}
    if name == "posterize":
        return {8 - np.round(level / (9 / 4))}
    return {np.linspace(255, 0, 10)[level]} if name == "solarize" else {0.0}


def test_autoaugment_takes_each_pair_equally_often_with_its_probabilities():
    names, arguments = drawn(policy=Policy.autoaugment)
    assert len(CIFAR10_POLICY) == 25
    # The probabilities of (first, second) as a mixture of the 25 pairs; absent operations count as identity.
    probabilities: Counter = Counter()
    allowed: dict[tuple[int, str], set[float]] = {}
    for pair in CIFAR10_POLICY:
        outcomes = []
        for turn, (operation, probability, level) in enumerate(pair):
            allowed.setdefault((turn, operation.name), set()).update(autoaugment_argument(operation.name, level))
            outcomes.append([(operation.name, probability), ("identity", 1 - probability)])
        for first, p in outcomes[0]:
            for second, q in outcomes[1]:
                probabilities[first, second] += p * q / 25
    counts = Counter(zip(*names.tolist(), strict=True))
    likely = {outcome: p for outcome, p in probabilities.items() if p > 1e-9}
    assert set(counts) <= set(likely)
    observed = np.array([counts[outcome] for outcome in likely])
    assert stats.chisquare(observed, DRAWS * np.array(list(likely.values()))).pvalue > 0.001
    for turn in (0, 1):
        for name in set(names[turn]) - {"identity"}:
            values = {round(float(value), 4) for value in arguments[turn][names[turn] == name]}
            assert values <= {round(value, 4) for value in allowed[turn, name]}, (turn, name)


def test_autoaugment_policy_equals_torchvision():
    # The pairs of AutoAugmentPolicy.CIFAR10, torchvision 0.28, in its order.
    text = """
        Invert .1 0 Contrast .2 6|Rotate .7 2 TranslateX .3 9|Sharpness .8 1 Sharpness .9 3|ShearY .5 8 TranslateY .7 9|
        AutoContrast .5 0 Equalize .9 0|ShearY .2 7 Posterize .3 7|Color .4 3 Brightness .6 7|
        Sharpness .3 9 Brightness .7 9|Equalize .6 0 Equalize .5 0|Contrast .6 7 Sharpness .6 5|
        Color .7 7 TranslateX .5 8|Equalize .3 0 AutoContrast .4 0|TranslateY .4 3 Sharpness .2 6|
        Brightness .9 6 Color .2 8|Solarize .5 2 Invert .0 0|Equalize .2 0 AutoContrast .6 0|
        Equalize .2 0 Equalize .6 0|
        Color .9 9 Equalize .6 0|AutoContrast .8 0 Solarize .2 8|Brightness .1 3 Color .7 0|
        Solarize .4 5 AutoContrast .9 0|TranslateY .9 9 TranslateY .7 9|AutoContrast .9 0 Solarize .8 3|
        Equalize .8 0 Invert .1 0|TranslateY .7 9 AutoContrast .9 0"""
    for ours, theirs in zip(CIFAR10_POLICY, text.split("|"), strict=True):
        flat = [
            entry for operation, chance, level in ours for entry in (operation.name.replace("_", ""), chance, level)
        ]
        words = theirs.split()
        assert flat == [w.lower() if i % 3 == 0 else float(w) for i, w in enumerate(words)]


def test_trivial_takes_one_of_fourteen_at_one_of_31_levels():
    names, arguments = drawn(frame=(64, 32), policy=Policy.trivial)
    assert names.shape == (1, DRAWS)
    known = GEOMETRIC | ENHANCEMENTS | {"identity", "autocontrast", "equalize", "posterize", "solarize"}
    assert evenly(Counter(names[0]), known)
    grid = np.linspace(0, 1, 31)
    tables = {
        "rotate": 135 * grid,
        "shear_x": 0.99 * grid,
        "shear_y": 0.99 * grid,
        "translate_x": 32 / 32 * grid,
        "translate_y": 32 / 64 * grid,
        "posterize": 8 - np.round(np.arange(31) / 5),
        "solarize": np.linspace(255, 0, 31),
        **dict.fromkeys(ENHANCEMENTS, 0.99 * grid),
    }
    for name, table in tables.items():
        values = arguments[names == name].astype("float64")
        values = values - 1 if name in ENHANCEMENTS else values
        distance = np.abs(np.abs(values)[:, None] - table)
        assert distance.min(1).max() < 1e-4, name
        if name in ("posterize", "solarize"):
            assert (values >= 0).all()
        else:
            assert stats.binomtest(int((values < 0).sum()), int((values != 0).sum()), 0.5).pvalue > 0.001
        if name != "posterize":
            counts = np.bincount(distance.argmin(1), minlength=31)
            assert stats.chisquare(counts).pvalue > 0.001
