"""Initial weights, and the seed of each weight and layer.

Numbers are drawn by NumPy, so that one seed gives one set of weights on every backend.
"""

import hashlib

import keras
import numpy as np

from tnt_exp.augmentation.stateless_random import Tensor

# A normal distribution truncated at two standard deviations has this fraction of its standard deviation.
_TRUNCATED_STDDEV = 0.8796256610342398


def derive_seed(seed: int, name: str) -> int:
    """Return a seed in [0, 2**31) for the layer or weight `name` inside what has `seed`; a pure function of both."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@keras.saving.register_keras_serializable(package="tnt_exp")
class Uniform(keras.initializers.Initializer):
    """Uniform between -limit and limit."""

    def __init__(self, limit: float, seed: int) -> None:
        self.limit = limit
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """Return a tensor of `shape`."""
        values = np.random.default_rng(self.seed).uniform(-self.limit, self.limit, shape)
        return keras.ops.convert_to_tensor(values, dtype or keras.config.floatx())

    def get_config(self) -> dict[str, float]:
        """Return the arguments."""
        return {"limit": self.limit, "seed": self.seed}


@keras.saving.register_keras_serializable(package="tnt_exp")
class TruncatedNormal(keras.initializers.Initializer):
    """Normal around 0, truncated at two standard deviations; its own standard deviation is `stddev`."""

    def __init__(self, stddev: float, seed: int) -> None:
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
        """Return a tensor of `shape`."""
        generator = np.random.default_rng(self.seed)
        values = generator.standard_normal(shape)
        while (beyond := np.abs(values) > 2).any():
            values[beyond] = generator.standard_normal(np.count_nonzero(beyond))
        return keras.ops.convert_to_tensor(values * (self.stddev / _TRUNCATED_STDDEV), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, float]:
        """Return the arguments."""
        return {"stddev": self.stddev, "seed": self.seed}


def kernel_initializer(initialization: str, seed: int, fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """Return the initializer of the kernel of a dense layer with so many inputs and outputs.

    "truncated_normal" has standard deviation 0.02 (the paper); "keras" is Glorot uniform, the default of Keras' layers.
    """
    if initialization == "keras":
        return Uniform((6 / (fan_in + fan_out)) ** 0.5, seed)
    return TruncatedNormal(0.02, seed)


def convolution_initializer(
    initialization: str, seed: int, window: int, fan_in: int, fan_out: int
) -> keras.initializers.Initializer:
    """Return the initializer of the kernel of a convolution over `window` pixels.

    "keras" is Glorot uniform. The published networks leave the convolution at PyTorch's default, uniform within
    1 / sqrt(inputs); "truncated_normal" does the same (except for the bias, which is initialized to 0 here).
    """
    if initialization == "keras":
        return kernel_initializer(initialization, seed, window * fan_in, window * fan_out)
    return Uniform((window * fan_in) ** -0.5, seed)


def position_initializer(initialization: str, seed: int) -> keras.initializers.Initializer:
    """Return the initializer of positions and of the class token.

    "truncated_normal" has standard deviation 0.02; "keras" is the default of `keras.layers.Embedding`, uniform within
    0.05.
    """
    if initialization == "keras":
        return Uniform(0.05, seed)
    return TruncatedNormal(0.02, seed)
