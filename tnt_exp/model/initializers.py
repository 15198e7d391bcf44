"""How weights start, and how every place of a model gets a seed of its own.

Numbers are drawn by NumPy: one seed gives one set of weights, on each backend.
"""

import hashlib
from typing import Any

import keras
import numpy as np

KINDS = ("truncated_normal", "keras")

# A normal distribution cut off at two deviations keeps this part of its deviation.
_DEVIATION_KEPT = 0.8796256610342398


def derive_seed(seed: int, place: str) -> int:
    """A seed in [0, 2**31) for a place below one that has `seed`; equal arguments give equal seeds."""
    digest = hashlib.blake2b(f"{seed}/{place}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@keras.saving.register_keras_serializable(package="tnt_exp")
class Uniform(keras.initializers.Initializer):
    """Uniform between -limit and limit."""

    def __init__(self, limit: float, seed: int) -> None:
        self.limit = limit
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """A tensor of `shape`."""
        values = np.random.default_rng(self.seed).uniform(-self.limit, self.limit, shape)
        return keras.ops.convert_to_tensor(values, dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"limit": self.limit, "seed": self.seed}


@keras.saving.register_keras_serializable(package="tnt_exp")
class TruncatedNormal(keras.initializers.Initializer):
    """Normal around 0, cut off at two deviations, of deviation `stddev` after the cut."""

    def __init__(self, stddev: float, seed: int) -> None:
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """A tensor of `shape`."""
        generator = np.random.default_rng(self.seed)
        values = generator.standard_normal(shape)
        while (beyond := np.abs(values) > 2).any():
            values[beyond] = generator.standard_normal(np.count_nonzero(beyond))
        return keras.ops.convert_to_tensor(values * (self.stddev / _DEVIATION_KEPT), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"stddev": self.stddev, "seed": self.seed}


def kernel_initializer(initialization: str, seed: int, fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """For the kernel of a dense layer.

    Args:
        initialization: "truncated_normal": deviation 0.02 (the paper); "keras": Glorot uniform, which Keras
            gives a layer by default.
        seed: Seed of this weight.
        fan_in, fan_out: What Glorot's limit is made of.
    """
    if initialization == "keras":
        return Uniform((6 / (fan_in + fan_out)) ** 0.5, seed)
    if initialization == "truncated_normal":
        return TruncatedNormal(0.02, seed)
    raise ValueError(f"Expected initialization to be one of {KINDS}, received: initialization={initialization!r}.")


def convolution_initializer(
    initialization: str, seed: int, window: int, fan_in: int, fan_out: int
) -> keras.initializers.Initializer:
    """For the kernel of a convolution over `window` pixels.

    "keras" is Glorot uniform. The published networks leave the convolution at PyTorch's default, uniform within
    1 / sqrt(inputs); "truncated_normal" does so too (but for its bias, which starts at 0 here).
    """
    if initialization == "keras":
        return kernel_initializer(initialization, seed, window * fan_in, window * fan_out)
    return Uniform((window * fan_in) ** -0.5, seed)


def position_initializer(initialization: str, seed: int) -> keras.initializers.Initializer:
    """For positions and the class token: deviation 0.02, or Keras' default of an Embedding, uniform within 0.05."""
    if initialization == "keras":
        return Uniform(0.05, seed)
    return TruncatedNormal(0.02, seed)
