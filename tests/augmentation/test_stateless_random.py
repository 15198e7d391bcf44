"""Randomness: a function of (seed, step, salt), the same after a restart."""

import hashlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from scipy import stats

from tnt_exp.augmentation.stateless_random import StatelessRandom

pytestmark = pytest.mark.backend


def draw(seed=0, step=0, salt="a", kind="uniform", shape=(64,)) -> np.ndarray:
    return keras.ops.convert_to_numpy(getattr(StatelessRandom(seed, step), kind)(salt, shape))


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_same_arguments_same_bits(kind):
    np.testing.assert_array_equal(draw(kind=kind), draw(kind=kind))
    step = keras.ops.convert_to_tensor(np.asarray(0, "int32"))
    np.testing.assert_array_equal(draw(step=step, kind=kind), draw(kind=kind))


@pytest.mark.parametrize("other", [{"seed": 1}, {"step": 1}, {"salt": "b"}])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_each_argument_matters(kind, other):
    assert not np.isin(draw(kind=kind), draw(kind=kind, **other)).any()


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_parts_of_a_batch_draw_what_the_batch_draws(kind):
    whole = draw(kind=kind, shape=(12, 5))
    parts = [getattr(StatelessRandom(0, 0, part), kind)("a", (4, 5)) for part in range(3)]
    found = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
    # The same words; of their cosine the last bit may be another at another place of a vector register.
    np.testing.assert_array_max_ulp(found, whole, maxulp=0 if kind == "uniform" else 4)


def test_the_largest_step_is_fine():
    assert not np.array_equal(draw(step=2**31 - 1), draw(step=2**31 - 2))


@pytest.mark.parametrize("along", ["seed", "step"])
def test_one_draw_of_many_is_uniform_and_not_correlated(along):
    drawn = np.array([draw(**{along: number}, shape=(2,)) for number in range(2_000)])
    assert stats.kstest(drawn[:, 0], stats.uniform.cdf).pvalue > 0.001
    assert stats.pearsonr(drawn[:, 0], drawn[:, 1]).pvalue > 0.001
    assert stats.pearsonr(drawn[:-1, 0], drawn[1:, 0]).pvalue > 0.001


def test_neighbours_in_a_draw_are_independent():
    drawn = draw(shape=(200_000,))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for lag in (1, 2, 3, 32, 256):
        table = np.histogram2d(drawn[:-lag], drawn[lag:], bins=16, range=[[0, 1]] * 2)[0]
        assert stats.chisquare(table.ravel()).pvalue > 0.001, lag


def test_normal_is_normally_distributed():
    drawn = draw(kind="normal", shape=(10_001,))
    assert stats.kstest(drawn, stats.norm.cdf).pvalue > 0.001
    assert stats.pearsonr(drawn[:5000], drawn[5001:]).pvalue > 0.001


def test_bits_are_the_same_under_every_backend():
    np.testing.assert_array_equal(np.round(draw(shape=(3,)) * 2**24), [10557391, 4135303, 4604105])


PROGRAM = """
import hashlib, keras, numpy as np
from tnt_exp.augmentation import Augmentation
from tnt_exp.config.compose import compose
images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype("uint8")
augmentation = Augmentation(compose(["augmentation=paper"]).augmentation, image_size=16, mean=[0.5] * 3, std=[0.25] * 3,
                            num_classes=4, label_smoothing=0.1, seed=9)
outputs = augmentation(keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(np.arange(6) % 4), 17, 1.0)
digest = hashlib.sha256(b"".join(keras.ops.convert_to_numpy(output).tobytes() for output in outputs)).hexdigest()
"""


def test_same_bits_after_a_restart():
    here: dict = {}
    exec(PROGRAM, here)
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM + "print(digest)"], capture_output=True, text=True, check=True
    )
    assert len(here["digest"]) == 2 * hashlib.sha256().digest_size
    assert there.stdout.strip().splitlines()[-1] == here["digest"]
