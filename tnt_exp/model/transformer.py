"""The pre-norm transformer block, which a TNT block has twice: over pixels and over patches."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initialization as start
from tnt_exp.model.attention import Attention
from tnt_exp.model.dropout import Dropout
from tnt_exp.model.geometry import hidden_dim

EPSILON = 1e-5  # of every layer normalisation; Keras' default is 1e-3


def normalization(name: str, dtype: str) -> keras.layers.Layer:
    """A layer normalisation over the last axis."""
    return keras.layers.LayerNormalization(epsilon=EPSILON, name=name, dtype=dtype)


@keras.saving.register_keras_serializable(package="tnt_exp")
class Mlp(keras.layers.Layer):
    """Dense, exact GELU, dropout, Dense, dropout.

    Args:
        dim: Width of a token.
        mlp_ratio: Hidden width / dim.
        dropout: Part dropped after each Dense in training.
        initialization: See `tnt_exp.model.initialization`.
        seed: Seed of weights and dropout.

    Call arguments:
        x: (B, T, dim).
        seed: The step's seed, None at inference.

    Returns:
        (B, T, dim).
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        dropout: float = 0.0,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.hidden = hidden_dim(dim, mlp_ratio)
        self.initialization = initialization
        self.seed = seed
        dtype = self.dtype_policy.name
        self.hidden_drop = Dropout(
            dropout, seed=start.derive(seed, "hidden_dropout"), name="mlp_hidden_dropout", dtype=dtype
        )
        self.drop = Dropout(dropout, seed=start.derive(seed, "dropout"), name="mlp_dropout", dtype=dtype)

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        expand = start.kernel(self.initialization, start.derive(self.seed, "expand"), self.dim, self.hidden)
        reduce = start.kernel(self.initialization, start.derive(self.seed, "reduce"), self.hidden, self.dim)
        self.expand_kernel = self.add_weight(name="expand_kernel", shape=(self.dim, self.hidden), initializer=expand)
        self.expand_bias = self.add_weight(name="expand_bias", shape=(self.hidden,), initializer="zeros")
        self.reduce_kernel = self.add_weight(name="reduce_kernel", shape=(self.hidden, self.dim), initializer=reduce)
        self.reduce_bias = self.add_weight(name="reduce_bias", shape=(self.dim,), initializer="zeros")

    def call(self, x: Any, seed: Any = None) -> Any:
        """Apply it to each token."""
        # `approximate=False`: the error function itself; Keras' default is a tanh in its place.
        hidden = ops.gelu(ops.matmul(x, self.expand_kernel) + self.expand_bias, approximate=False)
        hidden = self.hidden_drop(hidden, seed)
        return self.drop(ops.matmul(hidden, self.reduce_kernel) + self.reduce_bias, seed)


@keras.saving.register_keras_serializable(package="tnt_exp")
class Transformer(keras.layers.Layer):
    """x + Attention(LN(x)), then x + MLP(LN(x)); each branch may be dropped for a whole sequence.

    Args:
        dim: Width of a token.
        num_heads, head_width, qkv_bias, attention_dropout: See `Attention`.
        mlp_ratio, mlp_dropout: See `Mlp`.
        drop_path: Probability that a branch is dropped for a sequence.
        initialization: See `tnt_exp.model.initialization`.
        seed: Seed of weights and dropout.

    Call arguments:
        x: (B, T, dim).
        seed: The step's seed, None at inference.

    Returns:
        (B, T, dim).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_width: str = "split",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        drop_path: float = 0.0,
        attention_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        dtype = self.dtype_policy.name

        def path_drop(name: str) -> Dropout:
            return Dropout(drop_path, whole_samples=True, seed=start.derive(seed, name), name=name, dtype=dtype)

        self.attention_norm = normalization("attention_norm", dtype)
        self.attention = Attention(
            dim,
            num_heads,
            head_width,
            qkv_bias,
            attention_dropout,
            initialization,
            seed=start.derive(seed, "attention"),
            name="attention",
            dtype=dtype,
        )
        self.attention_drop = path_drop("attention_drop_path")
        self.mlp_norm = normalization("mlp_norm", dtype)
        self.mlp = Mlp(
            dim, mlp_ratio, mlp_dropout, initialization, seed=start.derive(seed, "mlp"), name="mlp", dtype=dtype
        )
        self.mlp_drop = path_drop("mlp_drop_path")

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)

    def call(self, x: Any, seed: Any = None) -> Any:
        """Apply the block."""
        x = x + self.attention_drop(self.attention(self.attention_norm(x), seed), seed)
        return x + self.mlp_drop(self.mlp(self.mlp_norm(x), seed), seed)

    def maps(self, x: Any) -> Any:
        """The attention weights that the block gives to tokens `x` (B, T, dim): (B, H, T, T)."""
        return self.attention.maps(self.attention_norm(x))
