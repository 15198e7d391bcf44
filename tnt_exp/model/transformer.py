"""The pre-norm transformer block, which a TNT block has twice: over pixels and over patches."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initialization as start
from tnt_exp.model.attention import Attention
from tnt_exp.model.dropout import seed_of
from tnt_exp.model.fused import add_drop, gelu_drop
from tnt_exp.model.geometry import hidden_dim
from tnt_exp.model.norm import Norm


@keras.saving.register_keras_serializable(package="tnt_exp")
class Mlp(keras.layers.Layer):
    """Dense, exact GELU, dropout, Dense.

    Tokens come standardised; scale and offset of the layer norm before are part of the first product.

    Args:
        dim: Width of a token.
        mlp_ratio: Hidden width / dim.
        dropout: Part dropped after the GELU in training.
        initialization: See `tnt_exp.model.initialization`.
        seed: Seed of the weights.

    Call arguments:
        y: (B, T, dim), standardised.
        norm: The layer normalisation whose scale and offset they lack.
        seed: The step's seed, None at inference.

    Returns:
        (B T, dim).
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
        self.dropout = dropout

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        expand = start.kernel(self.initialization, start.derive(self.seed, "expand"), self.dim, self.hidden)
        reduce = start.kernel(self.initialization, start.derive(self.seed, "reduce"), self.hidden, self.dim)
        self.expand_kernel = self.add_weight(name="expand_kernel", shape=(self.dim, self.hidden), initializer=expand)
        self.expand_bias = self.add_weight(name="expand_bias", shape=(self.hidden,), initializer="zeros")
        self.reduce_kernel = self.add_weight(name="reduce_kernel", shape=(self.hidden, self.dim), initializer=reduce)
        self.reduce_bias = self.add_weight(name="reduce_bias", shape=(self.dim,), initializer="zeros")

    def call(self, y: Any, norm: Norm, seed: Any = None) -> Any:
        """Apply it to each token."""
        kernel, bias = norm.into(self.expand_kernel, self.expand_bias)
        hidden = ops.add(ops.matmul(ops.reshape(y, (-1, self.dim)), kernel), bias)
        hidden = gelu_drop(self.dropout)(hidden, seed)
        return ops.add(ops.matmul(hidden, self.reduce_kernel), self.reduce_bias)


@keras.saving.register_keras_serializable(package="tnt_exp")
class Transformer(keras.layers.Layer):
    """x + Attention(LN(x)), then x + Dropout(MLP(LN(x))); each branch may be dropped for a whole sequence.

    Args:
        dim: Width of a token.
        num_heads, head_width, qkv_bias, attention_dropout: See `Attention`.
        mlp_ratio, mlp_dropout: See `Mlp`.
        initialization: See `tnt_exp.model.initialization`.
        seed: Seed of weights and dropout.

    Call arguments:
        x: (B, T, dim).
        drop_path: Probability that a branch is dropped for a sequence, scalar; None: 0.
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
        attention_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        dtype = self.dtype_policy.name

        self.attention_norm = Norm(name="attention_norm", dtype=dtype)
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
        self.mlp_norm = Norm(name="mlp_norm", dtype=dtype)
        self.mlp = Mlp(
            dim, mlp_ratio, mlp_dropout, initialization, seed=start.derive(seed, "mlp"), name="mlp", dtype=dtype
        )
        self.mlp_dropout = mlp_dropout

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)

    def call(self, x: Any, drop_path: Any = None, seed: Any = None) -> Any:
        """Apply the block."""
        for name, norm, branch, rate in (
            ("attention", self.attention_norm, self.attention, 0.0),
            ("mlp", self.mlp_norm, self.mlp, self.mlp_dropout),
        ):
            place = seed_of(seed, f"{self.name}/{name}")
            out = branch(norm.standardized(x, seed), norm=norm, seed=place)
            path = () if drop_path is None else (drop_path,)
            x = add_drop(rate)(x, out, *path, seed_of(seed, f"{self.name}/{name}/drop"))
        return x

    def maps(self, x: Any) -> Any:
        """The attention weights that the block gives to tokens `x` (B, T, dim): (B, H, T, T)."""
        return self.attention.maps(self.attention_norm.standardized(x), self.attention_norm)
