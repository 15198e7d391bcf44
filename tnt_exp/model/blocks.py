"""The TNT block: a transformer over the pixels of each patch inside a transformer over the patches.

Shapes: B batch, N patches per image, T tokens per image (N, and 1 for a class token), M pixel tokens per patch,
C inner width, D outer width. Where a layer serves both transformers: (sequences, tokens, dim).
"""

from typing import Unpack

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.attention import Attention
from tnt_exp.model.dropout import layer_seed
from tnt_exp.model.fused_ops import add_bias, dropout_add, gelu_dropout
from tnt_exp.model.layers import Norm, PatchTokens, PixelTokens, Scalar, Seed, Shape, TNTLayer, Tokens
from tnt_exp.model.tnt_config import LayerOptions, TNTConfig


@keras.saving.register_keras_serializable(package="tnt_exp", name="Mlp")
class MLP(TNTLayer):
    """Dense, exact GELU, dropout, Dense.

    The input is standardised; scale and offset of the layer norm before are folded into the first product.

    Call arguments:
        y: (sequences, tokens, dim), standardised.
        norm: The layer normalisation whose scale and offset are still to be applied.

    Returns the last product (sequences tokens, dim), and its bias (dim,), still to be added.
    """

    own_arguments = ("dim",)

    def __init__(self, config: TNTConfig, dim: int, *, seed: int = 0, **layer_options: Unpack[LayerOptions]) -> None:
        super().__init__(config, seed=seed, **layer_options)
        self.dim = dim
        self.hidden_dim = config.hidden_dim(dim)

    def build(self, input_shape: Shape) -> None:
        """Create the weights."""
        self.expand_kernel = self.add_kernel("expand_kernel", (self.dim, self.hidden_dim))
        self.expand_bias = self.add_bias("expand_bias", self.hidden_dim)
        self.reduce_kernel = self.add_kernel("reduce_kernel", (self.hidden_dim, self.dim))
        self.reduce_bias = self.add_bias("reduce_bias", self.dim)

    def call(self, y: Tokens, norm: Norm, seed: Seed | None = None) -> tuple[Tensor, Tensor]:
        """Return the MLP of each token, and what is to be added."""
        kernel, bias = norm.fold_into(self.expand_kernel, self.expand_bias)
        hidden = ops.matmul(ops.reshape(y, (-1, self.dim)), kernel)
        hidden = gelu_dropout(self.config.mlp_dropout)(hidden, bias, seed)
        return ops.matmul(hidden, self.reduce_kernel), ops.convert_to_tensor(self.reduce_bias)


@keras.saving.register_keras_serializable(package="tnt_exp")
class Transformer(TNTLayer):
    """x + Attention(LN(x)), then x + Dropout(MLP(LN(x))), of tokens x (sequences, tokens, dim).

    Each branch is dropped for a whole sequence with probability `drop_path`, a scalar; None: 0.
    """

    own_arguments = ("dim", "num_heads")

    def __init__(
        self, config: TNTConfig, dim: int, num_heads: int, *, seed: int = 0, **layer_options: Unpack[LayerOptions]
    ) -> None:
        super().__init__(config, seed=seed, **layer_options)
        self.dim = dim
        self.num_heads = num_heads
        self.attention_norm = self.add_norm("attention_norm")
        self.attention = self.add_sublayer(Attention, "attention", dim, num_heads)
        self.mlp_norm = self.add_norm("mlp_norm")
        self.mlp = self.add_sublayer(MLP, "mlp", dim)

    def build(self, input_shape: Shape) -> None:
        """Create the weights."""
        for layer in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            layer.build(input_shape)

    def call(self, x: Tokens, drop_path: Scalar | None = None, seed: Seed | None = None) -> Tokens:
        """Return the tokens after both branches."""
        rates = () if drop_path is None else (drop_path,)
        for norm, branch, dropout in (
            (self.attention_norm, self.attention, 0.0),
            (self.mlp_norm, self.mlp, self.config.mlp_dropout),
        ):
            name = f"{self.name}/{branch.name}"
            y, bias = branch(norm.standardize(x, seed), norm=norm, seed=layer_seed(seed, name))
            x = dropout_add(dropout)(x, y, *rates, bias, layer_seed(seed, f"{name}/drop"))
        return x

    def attention_weights(self, x: Tokens) -> Tensor:
        """Return the attention weights (sequences, heads, tokens, tokens) at these tokens."""
        return self.attention.attention_weights(self.attention_norm.standardize(x), self.attention_norm)


@keras.saving.register_keras_serializable(package="tnt_exp")
class Fusion(TNTLayer):
    """The pixel tokens (B N, M, C) become what is added to the patch tokens (B, T, D); 0 for the class token.

    `config.fusion` is "norm_dense": LN(M C), Dense with bias (the keras.io example); "norm_dense_norm": LN(M C), Dense
    without bias, LN(D) (the paper); or "pixel_norm_dense": LN(C) of each pixel, Dense with bias (timm legacy).
    """

    def __init__(self, config: TNTConfig, *, seed: int = 0, **layer_options: Unpack[LayerOptions]) -> None:
        super().__init__(config, seed=seed, **layer_options)
        self.norm = self.add_norm("norm")
        self.last_norm = self.add_norm("last_norm") if config.fusion == "norm_dense_norm" else None

    def build(self, input_shape: Shape) -> None:
        """Create the weights."""
        patches, fused_dim, embed_dim = self.config.patches, self.config.fused_dim, self.config.embed_dim
        normalizes_pixels = self.config.fusion == "pixel_norm_dense"
        self.norm.build(input_shape if normalizes_pixels else (None, patches, fused_dim))
        self.kernel = self.add_kernel("kernel", (fused_dim, embed_dim))
        self.bias = self.add_bias("bias", embed_dim) if self.last_norm is None else None
        if self.last_norm is not None:
            self.last_norm.build((None, patches, embed_dim))

    def call(self, pixels: PixelTokens, seed: Seed | None = None) -> PatchTokens:
        """Return what the pixels add to the patch tokens."""
        joined_shape = (-1, self.config.fused_dim)
        if self.config.fusion == "pixel_norm_dense":
            joined = ops.reshape(self.norm.standardize(pixels, seed), joined_shape)
        else:
            joined = self.norm.standardize(ops.reshape(pixels, joined_shape), seed)
        kernel, bias = self.norm.fold_into(self.kernel, self.bias)
        fused = ops.matmul(joined, kernel)
        shape = (-1, self.config.patches, self.config.embed_dim)
        if self.last_norm is None:
            fused = ops.reshape(add_bias(fused, bias), shape)
        else:
            fused = self.last_norm.normalize(fused, bias, shape, seed)
        return ops.pad(fused, ((0, 0), (1, 0), (0, 0))) if self.config.has_class_token else fused


@keras.saving.register_keras_serializable(package="tnt_exp")
class TNTBlock(TNTLayer):
    """One block of Transformer in Transformer (arXiv 2103.00112, section 2.2).

    The inner transformer works on the M pixels of each patch, the fusion adds them to the patch's token, the outer
    transformer works on the tokens. Both transformers have one drop-path rate; for the inner one the sample is
    a patch. The fusion is never dropped.

    A block without an inner transformer has no fusion either and returns the pixels as they are, so that a later
    block can use them. The authors' code does the same (its `vanilla_idxs`).

    Args:
        number: Number of the block, counted from 1; `config.inner_blocks` says which have an inner transformer.

    Call arguments:
        pixels: (B N, M, C).
        patches: (B, T, D).
        drop_path: Probability that a branch of a transformer is dropped, scalar; None: 0.
    """

    own_arguments = ("number",)

    def __init__(self, config: TNTConfig, number: int, *, seed: int = 0, **layer_options: Unpack[LayerOptions]) -> None:
        super().__init__(config, seed=seed, **layer_options)
        self.number = number
        self.has_inner = config.inner_block_mask[number - 1]
        if self.has_inner:
            self.inner = self.add_sublayer(Transformer, "inner", config.inner_dim, config.inner_num_heads)
            self.fusion = self.add_sublayer(Fusion, "fusion")
        self.outer = self.add_sublayer(Transformer, "outer", config.embed_dim, config.num_heads)

    def build(self, pixels_shape: Shape, patches_shape: Shape) -> None:
        """Create the weights."""
        if self.has_inner:
            self.inner.build(pixels_shape)
            self.fusion.build(pixels_shape)
        self.outer.build(patches_shape)

    def call(
        self, pixels: PixelTokens, patches: PatchTokens, drop_path: Scalar | None = None, seed: Seed | None = None
    ) -> tuple[PixelTokens, PatchTokens]:
        """Return pixels and patches after the block."""
        if self.has_inner:
            pixels = self.inner(pixels, drop_path, seed)
            patches = patches + self.fusion(pixels, seed)
        patches = self.outer(patches, drop_path, seed)
        return pixels, patches

    def attention_weights(self, pixels: PixelTokens, patches: PatchTokens) -> tuple[Tensor | None, Tensor]:
        """Return the attention weights: inner (B N, H, M, M), or None without inner transformer; outer (B, H, T, T)."""
        if not self.has_inner:
            return None, self.outer.attention_weights(patches)
        inner = self.inner.attention_weights(pixels)
        return inner, self.outer.attention_weights(patches + self.fusion(self.inner(pixels)))
