"""Multi-head self-attention with one kernel for query, key and value.

Shapes: B sequences, T tokens per sequence, H heads, dim width of a token, head width of a head.
"""

from typing import Unpack

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.fused_ops import dense, softmax_dropout
from tnt_exp.model.layers import Norm, Seed, Shape, TNTLayer, Tokens
from tnt_exp.model.tnt_config import LayerOptions, TNTConfig

_GRID_ROWS = 65_535  # of CUDA


@keras.saving.register_keras_serializable(package="tnt_exp")
class Attention(TNTLayer):
    """softmax(q k^T / sqrt(head width)) v over all heads, projected back to the token's width.

    `keras.layers.MultiHeadAttention` has one switch for the biases of query, key, value and output; the paper's block
    has a bias on the output alone.

    The input is standardised; scale and offset of the layer norm before are folded into the products here.

    Where a head is wide, query and key are never computed: with tokens y, scores are y (Wq Wk^T) y^T, and the output
    is the sum over heads of P_h y (Wv Wo). The small products in brackets are computed anew in each step. Where a head
    has the token's full width this is half the arithmetic, needs no transpose, and makes all heads of a sequence one
    product. The bias of the key adds the same to all scores of a query, so the softmax cancels it.

    Args:
        dim: Width of a token.
        num_heads: H, number of heads.

    Call arguments:
        y: (B, T, dim), standardised.
        norm: The layer normalisation whose scale and offset are still to be applied.

    Returns the last product (B T, dim), and its bias (dim,), still to be added.
    """

    own_arguments = ("dim", "num_heads")

    def __init__(
        self, config: TNTConfig, dim: int, num_heads: int, *, seed: int = 0, **layer_options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(config, seed=seed, **layer_options)
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = config.head_dim(dim, num_heads)
        self.is_folded = 2 * self.head_dim >= dim  # for narrower heads the folded products cost more than they save

    def build(self, input_shape: Shape) -> None:
        """Create the weights: `qkv_kernel` holds the columns of q, of k and of v, each head by head."""
        dim, heads, width = self.dim, self.num_heads, self.num_heads * self.head_dim
        # Keras' MultiHeadAttention has kernels (dim, H, head) and (H, head, dim). When the keras.io example was
        # trained (2021), Keras took the axes before the last two for a convolution's window, and so does Glorot here.
        self.qkv_kernel = self.add_kernel("qkv_kernel", (dim, 3 * width), fans=(dim * heads, dim * self.head_dim))
        self.qkv_bias = self.add_bias("qkv_bias", 3 * width) if self.config.qkv_bias else None
        self.projection_kernel = self.add_kernel("projection_kernel", (width, dim), fans=(width, heads * dim))
        self.projection_bias = self.add_bias("projection_bias", dim)

    def call(self, y: Tokens, norm: Norm, seed: Seed | None = None) -> tuple[Tensor, Tensor]:
        """Return the output of the attention, and what is to be added."""
        if self.is_folded:
            return self._folded(y, norm, seed)
        mixed = dot_product_attention(*self._query_key_value(y, norm), self.config.attention_dropout, seed)
        mixed = ops.transpose(mixed, (0, 2, 1, 3))
        mixed = ops.reshape(mixed, (-1, self.num_heads * self.head_dim))
        return ops.matmul(mixed, self.projection_kernel), ops.convert_to_tensor(self.projection_bias)

    def attention_weights(self, y: Tokens, norm: Norm) -> Tensor:
        """Return the attention weights of tokens `y`: (B, H, T queries, T keys), each row sums to 1."""
        if not self.is_folded:
            q, k, _ = self._query_key_value(y, norm)
            return ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
        tokens = y.shape[1]
        weights = ops.softmax(self._folded_scores(y, norm))
        return ops.transpose(ops.reshape(weights, (-1, tokens, self.num_heads, tokens)), (0, 2, 1, 3))

    def _query_key_value(self, y: Tokens, norm: Norm) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, already scaled, key and value: each (B, H, T, head)."""
        tokens = y.shape[1]
        kernel, bias = norm.fold_into(self.qkv_kernel, self.qkv_bias)
        qkv = dense(ops.reshape(y, (-1, self.dim)), kernel, bias)
        qkv = ops.reshape(qkv, (-1, tokens, 3, self.num_heads, self.head_dim))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        return q * self.head_dim**-0.5, k, v

    def _folded(self, y: Tokens, norm: Norm, seed: Seed | None) -> tuple[Tensor, Tensor]:
        heads, dim = self.num_heads, self.dim
        scores = self._folded_scores(y, norm)
        weights, sums = softmax_dropout(self.config.attention_dropout)(scores, seed)
        mixed = ops.reshape(ops.matmul(weights, y), (-1, heads * dim))
        kernel, offset = self._folded_values(norm)
        out = ops.matmul(mixed, ops.reshape(kernel, (heads * dim, dim)))
        # The norm's offset and the value's bias are added with the attention weights, so times their sum: 1, or any
        # other number after dropout.
        if seed is None or self.config.attention_dropout == 0:
            return out, ops.sum(offset, axis=0) + self.projection_bias
        out = out + ops.matmul(ops.reshape(sums, (-1, heads)), offset)
        return out, ops.convert_to_tensor(self.projection_bias)

    def _folded_scores(self, y: Tokens, norm: Norm) -> Tensor:
        """Return the scores (B, T H, T)."""
        tokens, heads, dim, width = y.shape[1], self.num_heads, self.dim, self.head_dim
        query, key, _ = self._split_qkv(self.qkv_kernel, (dim, heads, width))
        gamma, beta = ops.cast(norm.gamma, key.dtype), ops.cast(norm.beta, key.dtype)
        key = ops.transpose(key * gamma[:, None, None] * width**-0.5, (1, 2, 0))  # (H, head, dim)
        kernel = ops.matmul(ops.transpose(query, (1, 0, 2)), key)  # (H, dim, dim)
        bias = ops.sum(beta[:, None] * kernel, axis=1)  # (H, dim)
        if self.qkv_bias is not None:
            query_bias = self._split_qkv(self.qkv_bias, (heads, 1, width))[0]
            bias = bias + ops.matmul(query_bias, key)[:, 0]
        kernel = ops.transpose(kernel * gamma[:, None], (1, 0, 2))
        kernel, bias = ops.reshape(kernel, (dim, heads * dim)), ops.reshape(bias, (heads * dim,))
        queries = dense(ops.reshape(y, (-1, dim)), kernel, bias)
        return ops.matmul(ops.reshape(queries, (-1, tokens * heads, dim)), ops.transpose(y, (0, 2, 1)))

    def _folded_values(self, norm: Norm) -> tuple[Tensor, Tensor]:
        """Return Wv Wo of each head (H, dim, dim), and what it adds to the output of any token (H, dim)."""
        dim, heads, width = self.dim, self.num_heads, self.head_dim
        value = ops.transpose(self._split_qkv(self.qkv_kernel, (dim, heads, width))[2], (1, 0, 2))
        projection = ops.reshape(self.projection_kernel, (heads, width, dim))
        kernel = ops.matmul(value, projection)
        offset = ops.sum(ops.cast(norm.beta, kernel.dtype)[:, None] * kernel, axis=1)
        if self.qkv_bias is not None:
            offset = offset + ops.matmul(self._split_qkv(self.qkv_bias, (heads, 1, width))[2], projection)[:, 0]
        return kernel * ops.cast(norm.gamma, kernel.dtype)[:, None], offset

    def _split_qkv(self, joined: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
        """Return the query's, the key's and the value's part of a kernel or a bias, each of `shape`."""
        return [ops.reshape(part, shape) for part in ops.split(joined, 3, axis=-1)]


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, rate: float, seed: Tensor | None) -> Tensor:
    """Return dropout(softmax(q k^T)) v, where q is scaled already; all of shape (B, H, T, head).

    PyTorch has it as one kernel that never writes the weights, but whose dropout is another one.
    """
    if keras.config.backend() == "torch" and (seed is None or rate == 0):
        return _torch_attention(q, k, v)
    weights, _ = softmax_dropout(rate)(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), seed)
    return ops.matmul(weights, v)


def _torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T) v by PyTorch's kernel, which on a GPU takes at most as many sequences as a grid has rows.

    The pixels of a patch are a sequence: a network with 144 patches has 65,535 of them from 456 images on
    (pytorch#142228).
    """
    import torch
    from torch.nn import functional

    if not q.is_cuda or len(q) <= _GRID_ROWS:
        return functional.scaled_dot_product_attention(q, k, v, scale=1.0)
    pieces = zip(*(torch.split(tensor, _GRID_ROWS) for tensor in (q, k, v)), strict=True)
    return torch.cat([functional.scaled_dot_product_attention(a, b, c, scale=1.0) for a, b, c in pieces])
