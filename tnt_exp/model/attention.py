"""Multi-head self-attention with one kernel for query, key and value."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initialization as start
from tnt_exp.model.dropout import Dropout
from tnt_exp.model.geometry import head_dim


@keras.saving.register_keras_serializable(package="tnt_exp")
class Attention(keras.layers.Layer):
    """softmax(q k^T / sqrt(head width)) v over all heads, projected back to the token's width.

    `keras.layers.MultiHeadAttention` gives the query the bias that it gives the output; the paper's block has
    a bias on the output alone.

    Args:
        dim: Width of a token.
        num_heads: H, number of heads.
        head_width: "split": a head is dim / H wide (the paper); "full": dim (the keras.io example).
        qkv_bias: Bias on query, key and value.
        dropout: Part of the attention weights dropped in training.
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
        qkv_bias: bool = False,
        dropout: float = 0.0,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads, head_width)
        self.has_qkv_bias = qkv_bias
        self.initialization = initialization
        self.seed = seed
        self.drop = Dropout(
            dropout, seed=start.derive(seed, "dropout"), name="attention_dropout", dtype=self.dtype_policy.name
        )

    def build(self, input_shape: Any) -> None:
        """Create the weights: `qkv_kernel` holds the columns of q, of k and of v, each head by head."""
        inner = self.num_heads * self.head_dim
        # Keras' MultiHeadAttention has kernels (dim, H, head) and (H, head, dim). When the keras.io example was
        # trained (2021), Keras took the axes before the last two for a convolution's window, and so does Glorot here.
        into = start.kernel(
            self.initialization, start.derive(self.seed, "qkv"), self.dim * self.num_heads, self.dim * self.head_dim
        )
        out_of = start.kernel(
            self.initialization, start.derive(self.seed, "projection"), inner, self.num_heads * self.dim
        )
        self.qkv_kernel = self.add_weight(name="qkv_kernel", shape=(self.dim, 3 * inner), initializer=into)
        self.qkv_bias = None
        if self.has_qkv_bias:
            self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * inner,), initializer="zeros")
        self.projection_kernel = self.add_weight(name="projection_kernel", shape=(inner, self.dim), initializer=out_of)
        self.projection_bias = self.add_weight(name="projection_bias", shape=(self.dim,), initializer="zeros")

    def _weights_and_values(self, x: Any) -> tuple[Any, Any]:
        tokens = x.shape[1]
        qkv = ops.matmul(x, self.qkv_kernel)
        if self.qkv_bias is not None:
            qkv = qkv + self.qkv_bias
        qkv = ops.reshape(qkv, (-1, tokens, 3, self.num_heads, self.head_dim))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # each (B, H, T, head)
        scores = ops.matmul(q * self.head_dim**-0.5, ops.transpose(k, (0, 1, 3, 2)))
        return ops.softmax(scores), v

    def call(self, x: Any, seed: Any = None) -> Any:
        """Attend."""
        weights, values = self._weights_and_values(x)
        mixed = ops.matmul(self.drop(weights, seed), values)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, x.shape[1], self.num_heads * self.head_dim))
        return ops.matmul(mixed, self.projection_kernel) + self.projection_bias

    def maps(self, x: Any) -> Any:
        """The attention weights of tokens `x` (B, T, dim): (B, H, T queries, T keys); each row sums to 1."""
        return self._weights_and_values(x)[0]
