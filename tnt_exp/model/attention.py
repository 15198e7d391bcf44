"""Multi-head self-attention with one kernel for query, key and value."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initializers as start
from tnt_exp.model.fused_ops import attend, softmax_drop
from tnt_exp.model.geometry import head_dim


@keras.saving.register_keras_serializable(package="tnt_exp")
class Attention(keras.layers.Layer):
    """softmax(q k^T / sqrt(head width)) v over all heads, projected back to the token's width.

    `keras.layers.MultiHeadAttention` gives the query the bias that it gives the output; the paper's block has
    a bias on the output alone.

    Tokens come standardised; scale and offset of the layer norm before are part of the products here.

    Where a head is wide, query and key are never made: with tokens y, scores are y (Wq Wk^T) y^T, and the output is
    the sum over heads of P_h y (Wv Wo). The small products in brackets are made anew in each step. That is half the
    arithmetic where a head has the token's full width, no transpose is left, and all heads of a sequence are one
    product. The bias of the key adds the same to all scores of a query and so does nothing.

    Args:
        dim: Width of a token.
        num_heads: H, number of heads.
        head_width: "split": a head is dim / H wide (the paper); "full": dim (the keras.io example).
        qkv_bias: Bias on query, key and value.
        dropout: Part of the attention weights dropped in training.
        initialization: See `tnt_exp.model.initializers`.
        seed: Seed of weights and dropout.

    Call arguments:
        y: (B, T, dim), standardised.
        norm: The layer normalisation whose scale and offset they lack.
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
        self.dropout = dropout
        self.folds = 2 * self.head_dim >= dim  # else the folded products cost more than they save

    def build(self, input_shape: Any) -> None:
        """Create the weights: `qkv_kernel` holds the columns of q, of k and of v, each head by head."""
        inner = self.num_heads * self.head_dim
        # Keras' MultiHeadAttention has kernels (dim, H, head) and (H, head, dim). When the keras.io example was
        # trained (2021), Keras took the axes before the last two for a convolution's window, and so does Glorot here.
        into = start.kernel_initializer(
            self.initialization,
            start.derive_seed(self.seed, "qkv"),
            self.dim * self.num_heads,
            self.dim * self.head_dim,
        )
        out_of = start.kernel_initializer(
            self.initialization, start.derive_seed(self.seed, "projection"), inner, self.num_heads * self.dim
        )
        self.qkv_kernel = self.add_weight(name="qkv_kernel", shape=(self.dim, 3 * inner), initializer=into)
        self.qkv_bias = None
        if self.has_qkv_bias:
            self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * inner,), initializer="zeros")
        self.projection_kernel = self.add_weight(name="projection_kernel", shape=(inner, self.dim), initializer=out_of)
        self.projection_bias = self.add_weight(name="projection_bias", shape=(self.dim,), initializer="zeros")

    def call(self, y: Any, norm: Any, seed: Any = None) -> Any:
        """Attend."""
        return self._folded(y, norm, seed) if self.folds else self._plain(y, norm, seed)

    def maps(self, y: Any, norm: Any) -> Any:
        """The attention weights of tokens `y` (B, T, dim): (B, H, T queries, T keys); each row sums to 1."""
        if not self.folds:
            q, k, _ = self._query_key_value(y, norm)
            return ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        tokens = y.shape[1]
        weights = ops.softmax(self._folded_scores(y, norm))
        return ops.transpose(ops.reshape(weights, (-1, tokens, self.num_heads, tokens)), (0, 2, 1, 3))

    def _plain(self, y: Any, norm: Any, seed: Any) -> Any:
        mixed = attend(*self._query_key_value(y, norm), self.dropout, seed)
        mixed = ops.transpose(mixed, (0, 2, 1, 3))
        mixed = ops.reshape(mixed, (-1, self.num_heads * self.head_dim))
        return ops.add(ops.matmul(mixed, self.projection_kernel), self.projection_bias)

    def _query_key_value(self, y: Any, norm: Any) -> tuple[Any, Any, Any]:
        """Query, scaled, key and value: each (B, H, T, head)."""
        tokens = y.shape[1]
        kernel, bias = norm.into(self.qkv_kernel, self.qkv_bias)
        qkv = ops.add(ops.matmul(ops.reshape(y, (-1, self.dim)), kernel), bias)
        qkv = ops.reshape(qkv, (-1, tokens, 3, self.num_heads, self.head_dim))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        return q * self.head_dim**-0.5, k, v

    def _folded(self, y: Any, norm: Any, seed: Any) -> Any:
        heads, dim = self.num_heads, self.dim
        scores = self._folded_scores(y, norm)
        weights, sums = softmax_drop(self.dropout)(scores, seed)
        mixed = ops.reshape(ops.matmul(weights, y), (-1, heads * dim))
        # With weights that sum to `sums`, the offset of the norm and the bias of the value come in that often.
        kernel, offset = self._outputs(norm)
        out = ops.matmul(mixed, ops.reshape(kernel, (heads * dim, dim)))
        if seed is None or self.dropout == 0:
            return ops.add(out, ops.sum(offset, axis=0) + self.projection_bias)
        return ops.add(out + ops.matmul(ops.reshape(sums, (-1, heads)), offset), self.projection_bias)

    def _folded_scores(self, y: Any, norm: Any) -> Any:
        """Scores (B, T H, T)."""
        tokens, heads, dim, width = y.shape[1], self.num_heads, self.dim, self.head_dim
        query, key, _ = self._parts(self.qkv_kernel, (dim, heads, width))
        gamma, beta = ops.cast(norm.gamma, key.dtype), ops.cast(norm.beta, key.dtype)
        key = ops.transpose(key * gamma[:, None, None] * width**-0.5, (1, 2, 0))  # (H, head, dim)
        kernel = ops.matmul(ops.transpose(query, (1, 0, 2)), key)  # (H, dim, dim)
        bias = ops.sum(beta[:, None] * kernel, axis=1)  # (H, dim)
        if self.qkv_bias is not None:
            query_bias = self._parts(self.qkv_bias, (heads, 1, width))[0]
            bias = bias + ops.matmul(query_bias, key)[:, 0]
        kernel = ops.transpose(kernel * gamma[:, None], (1, 0, 2))
        asked = ops.matmul(ops.reshape(y, (-1, dim)), ops.reshape(kernel, (dim, heads * dim)))
        asked = ops.add(asked, ops.reshape(bias, (heads * dim,)))
        return ops.matmul(ops.reshape(asked, (-1, tokens * heads, dim)), ops.transpose(y, (0, 2, 1)))

    def _outputs(self, norm: Any) -> tuple[Any, Any]:
        """What a head makes of a standardised token it attends to, (H, dim, dim), and of any token, (H, dim)."""
        dim, heads, width = self.dim, self.num_heads, self.head_dim
        value = ops.transpose(self._parts(self.qkv_kernel, (dim, heads, width))[2], (1, 0, 2))
        projection = ops.reshape(self.projection_kernel, (heads, width, dim))
        kernel = ops.matmul(value, projection)
        offset = ops.sum(ops.cast(norm.beta, kernel.dtype)[:, None] * kernel, axis=1)
        if self.qkv_bias is not None:
            offset = offset + ops.matmul(self._parts(self.qkv_bias, (heads, 1, width))[2], projection)[:, 0]
        return kernel * ops.cast(norm.gamma, kernel.dtype)[:, None], offset

    def _parts(self, joined: Any, shape: tuple[int, ...]) -> list[Any]:
        """Those of query, key and value."""
        return [ops.reshape(part, shape) for part in ops.split(joined, 3, axis=-1)]
