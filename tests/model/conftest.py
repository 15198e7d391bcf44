"""Fixtures of the tests of the model: presets, small networks, gradients on the current backend."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.config.model import ModelConfig
from tnt_exp.model import TNT

# Not one dimension equals another, so that a wrong axis shows.
SMALL = {
    "num_classes": 5,
    "image_size": 24,
    "patch_size": 8,
    "stride": 2,
    "depth": 2,
    "embed_dim": 24,
    "inner_dim": 6,
    "num_heads": 4,
    "inner_num_heads": 3,
}


@pytest.fixture
def small() -> Callable[..., TNT]:
    """A small network; keywords change it."""
    return lambda **changes: TNT(**{**SMALL, **changes})


@pytest.fixture
def block_outputs() -> Callable[..., list[tuple[Any, Any]]]:
    """Pixel tokens (B N, M, C) and patch tokens (B, T, D) after each block of a network."""

    def call_in_turn(network: TNT, images: np.ndarray) -> list[tuple[Any, Any]]:
        pixels = network.pixel_embedding(images)
        patches = network.patch_embedding(pixels)
        outputs = []
        for block in network.blocks:
            pixels, patches = block(pixels, patches)
            outputs.append((pixels, patches))
        return outputs

    return call_in_turn


@pytest.fixture
def images() -> np.ndarray:
    """Three normalised images for a small network."""
    return np.random.default_rng(0).normal(size=(3, 24, 24, 3)).astype("float32")


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float64 stays float64: left alone, JAX has none, and Keras rounds products and means on JAX and PyTorch."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        from keras.src.backend.common import dtypes

        monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    if backend != "jax":
        yield
        return
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def preset() -> Callable[..., ModelConfig]:
    """The `model` section of a shipped preset."""
    return lambda name, *overrides: compose([f"model={name}", *overrides]).model


@pytest.fixture
def gradients() -> Callable[..., tuple[np.ndarray, list[np.ndarray]]]:
    """The value of a scalar function of a layer's weights and its gradient to each trainable weight."""
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()]


def _tensorflow(layer: Any, function: Callable[..., Any], compiled: bool = False) -> Any:
    import tensorflow as tf

    def step() -> Any:
        with tf.GradientTape() as tape:
            value = function()
        return value, tape.gradient(value, [v.value for v in layer.trainable_variables])

    value, found = tf.function(step, jit_compile=True)() if compiled else step()
    return value.numpy(), [None if g is None else g.numpy() for g in found]


def _jax(layer: Any, function: Callable[..., Any], compiled: bool = False) -> Any:
    import jax

    rest = layer.non_trainable_variables

    def pure(values: Any, others: Any) -> Any:
        pairs = zip([*layer.trainable_variables, *rest], [*values, *others], strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)) as scope:
            value = function()
            return value, [scope.get_current_value(v) for v in rest]

    step = jax.value_and_grad(pure, has_aux=True)
    # Always compiled: otherwise JAX compiles each operation by itself.
    (value, others), found = jax.jit(step)([v.value for v in layer.trainable_variables], [v.value for v in rest])
    for variable, other in zip(rest, others, strict=True):
        variable.assign(other)
    return np.asarray(value), [np.asarray(g) for g in found]


def _torch(layer: Any, function: Callable[..., Any], compiled: bool = False) -> Any:
    layer.zero_grad()
    value = function()
    value.backward()
    gradients = [variable.value.grad for variable in layer.trainable_variables]
    return keras.ops.convert_to_numpy(value), [None if g is None else keras.ops.convert_to_numpy(g) for g in gradients]


@pytest.fixture(scope="session")
def timm() -> Any:
    """timm, imported with replacements for torchvision operators that may be missing."""
    from benchmarks.timm_tnt import timm

    return timm
