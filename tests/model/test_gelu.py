"""The GELU of kernels in bfloat16 beside the error function."""

import math

import numpy as np
import pytest

pytestmark = pytest.mark.backend

X = np.concatenate([np.linspace(-9, 9, 20_001), [-1e4, 1e4, 0.0]]).astype(np.float32)
PROBABILITY = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in X.astype(float)])
DENSITY = np.exp(-np.square(X.astype(float)) / 2) / math.sqrt(2 * math.pi)


def test_value() -> None:
    from keras import ops

    from tnt_exp.model.gelu import gelu_of_half_precision

    found = ops.convert_to_numpy(gelu_of_half_precision(ops.convert_to_tensor(X)))
    assert np.abs(found - X * PROBABILITY).max(where=np.abs(X) < 10, initial=0) < 3e-5
    np.testing.assert_allclose(found[-3:], [0, 1e4, 0], rtol=2e-6, atol=0.02)


def test_gradient() -> None:
    from tests.model.test_fused_ops import gradient
    from tnt_exp.model.gelu import gelu_of_half_precision

    found = gradient(lambda x, _: gelu_of_half_precision(x), X, [np.ones_like(X)])
    assert np.abs(found - (PROBABILITY + X * DENSITY)).max() < 3e-5


def test_not_a_number_stays_one() -> None:
    from keras import ops

    from tnt_exp.model.gelu import gelu_of_half_precision

    assert np.isnan(ops.convert_to_numpy(gelu_of_half_precision(ops.convert_to_tensor(np.array([np.nan], np.float32)))))
