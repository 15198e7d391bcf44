"""The pre-norm transformer block, which a TNT block has twice: over pixels and over patches."""

# MERGED DOCS:
# """The TNT block: a transformer over the pixels of each patch inside a transformer over the patches."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initializers as start
from tnt_exp.model.attention import Attention
from tnt_exp.model.dropout import seed_of
from tnt_exp.model.fused_ops import add_drop, gelu_drop
from tnt_exp.model.geometry import hidden_dim
from tnt_exp.model.layers import Norm


@keras.saving.register_keras_serializable(package="tnt_exp")
class Mlp(keras.layers.Layer):
    """Dense, exact GELU, dropout, Dense.

    Tokens come standardised; scale and offset of the layer norm before are part of the first product.

    Args:
        dim: Width of a token.
        mlp_ratio: Hidden width / dim.
        dropout: Part dropped after the GELU in training.
        initialization: See `tnt_exp.model.initializers`.
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
        expand = start.kernel_initializer(
            self.initialization, start.derive_seed(self.seed, "expand"), self.dim, self.hidden
        )
        reduce = start.kernel_initializer(
            self.initialization, start.derive_seed(self.seed, "reduce"), self.hidden, self.dim
        )
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
        initialization: See `tnt_exp.model.initializers`.
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
            seed=start.derive_seed(seed, "attention"),
            name="attention",
            dtype=dtype,
        )
        self.mlp_norm = Norm(name="mlp_norm", dtype=dtype)
        self.mlp = Mlp(
            dim, mlp_ratio, mlp_dropout, initialization, seed=start.derive_seed(seed, "mlp"), name="mlp", dtype=dtype
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


FUSIONS = ("norm_dense", "norm_dense_norm", "pixel_norm_dense")


@keras.saving.register_keras_serializable(package="tnt_exp")
class Fusion(keras.layers.Layer):
    """The pixels of a patch become one vector of the patch token's width.

    Args:
        patches: N, patches an image.
        pixels: M, pixel tokens a patch.
        inner_dim: C, width of a pixel token.
        embed_dim: D, width of a patch token.
        fusion: "norm_dense": LN(M C), Dense with bias (the keras.io example); "norm_dense_norm": LN(M C), Dense
            without bias, LN(D) (the paper); "pixel_norm_dense": LN(C) of each pixel, Dense with bias (timm legacy).
        class_token: Whether a class token, to which nothing is added, stands before the patches.
        initialization: See `tnt_exp.model.initializers`.
        seed: Seed of the weights.

    Call arguments:
        pixels: (B N, M, C).
        seed: The step's seed, None at inference.

    Returns:
        (B, T, D), to be added to the patch tokens.
    """

    def __init__(
        self,
        patches: int,
        pixels: int,
        inner_dim: int,
        embed_dim: int,
        fusion: str = "norm_dense_norm",
        class_token: bool = True,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if fusion not in FUSIONS:
            raise ValueError(f"Expected fusion to be one of {FUSIONS}, received: fusion={fusion!r}.")
        self.patches = patches
        self.width = pixels * inner_dim
        self.embed_dim = embed_dim
        self.class_token = class_token
        self.initialization = initialization
        self.seed = seed
        self.norm_each_pixel = fusion == "pixel_norm_dense"
        self.has_bias = fusion != "norm_dense_norm"
        self.norm = Norm(name="norm", dtype=self.dtype_policy.name)
        self.last_norm = None
        if fusion == "norm_dense_norm":
            self.last_norm = Norm(name="last_norm", dtype=self.dtype_policy.name)

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        self.norm.build(input_shape if self.norm_each_pixel else (None, self.patches, self.width))
        initializer = start.kernel_initializer(
            self.initialization, start.derive_seed(self.seed, "kernel"), self.width, self.embed_dim
        )
        self.kernel = self.add_weight(name="kernel", shape=(self.width, self.embed_dim), initializer=initializer)
        self.bias = None
        if self.has_bias:
            self.bias = self.add_weight(name="bias", shape=(self.embed_dim,), initializer="zeros")
        if self.last_norm is not None:
            self.last_norm.build((None, self.patches, self.embed_dim))

    def call(self, pixels: Any, seed: Any = None) -> Any:
        """Fuse."""
        if self.norm_each_pixel:
            pixels = self.norm.standardized(pixels, seed)
        joined = ops.reshape(pixels, (-1, self.width))
        if not self.norm_each_pixel:
            joined = self.norm.standardized(joined, seed)
        kernel, bias = self.norm.into(self.kernel, self.bias)
        fused = ops.reshape(ops.add(ops.matmul(joined, kernel), bias), (-1, self.patches, self.embed_dim))
        if self.last_norm is not None:
            fused = self.last_norm(fused)
        return ops.pad(fused, ((0, 0), (1, 0), (0, 0))) if self.class_token else fused


@keras.saving.register_keras_serializable(package="tnt_exp")
class TNTBlock(keras.layers.Layer):
    """One block of Transformer in Transformer (arXiv 2103.00112, section 2.2).

    The inner transformer works on the M pixels of each patch, the fusion adds them to the patch's token, the outer
    transformer works on the tokens. Both transformers have one drop-path rate; for the inner one the sample is
    a patch. The fusion is never dropped.

    A block without an inner transformer has no fusion either and passes the pixels on as they came, so that
    a later block can go on with them. The authors' code does the same (its `vanilla_idxs`).

    Args:
        patches, pixels, inner_dim, embed_dim, fusion, class_token: See `Fusion`.
        num_heads, inner_num_heads: Heads of the outer and of the inner transformer.
        inner: Whether the block has an inner transformer.
        head_width, mlp_ratio, qkv_bias, attention_dropout, mlp_dropout: See `Transformer`.
        initialization: See `tnt_exp.model.initializers`.
        seed: Seed of the weights.

    Call arguments:
        pixels: (B N, M, C).
        patches: (B, T, D).
        drop_path: Probability that a branch of a transformer is dropped, scalar; None: 0.
        seed: The step's seed, None at inference.

    Returns:
        Pixels and patches of the same shapes.
    """

    def __init__(
        self,
        patches: int,
        pixels: int,
        inner_dim: int,
        embed_dim: int,
        num_heads: int,
        inner_num_heads: int,
        inner: bool = True,
        head_width: str = "split",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        fusion: str = "norm_dense_norm",
        class_token: bool = True,
        attention_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)

        def transformer(dim: int, heads: int, name: str) -> Transformer:
            return Transformer(
                dim,
                heads,
                head_width,
                mlp_ratio,
                qkv_bias,
                attention_dropout,
                mlp_dropout,
                initialization,
                seed=start.derive_seed(seed, name),
                name=name,
                dtype=self.dtype_policy.name,
            )

        self.has_inner = inner
        if inner:
            self.inner = transformer(inner_dim, inner_num_heads, "inner")
            self.fusion = Fusion(
                patches,
                pixels,
                inner_dim,
                embed_dim,
                fusion,
                class_token,
                initialization,
                seed=start.derive_seed(seed, "fusion"),
                name="fusion",
                dtype=self.dtype_policy.name,
            )
        self.outer = transformer(embed_dim, num_heads, "outer")

    def build(self, pixels_shape: Any, patches_shape: Any) -> None:
        """Create the weights."""
        if self.has_inner:
            self.inner.build(pixels_shape)
            self.fusion.build(pixels_shape)
        self.outer.build(patches_shape)

    def call(self, pixels: Any, patches: Any, drop_path: Any = None, seed: Any = None) -> tuple[Any, Any]:
        """Apply the block."""
        if self.has_inner:
            pixels = self.inner(pixels, drop_path, seed)
            patches = patches + self.fusion(pixels, seed)
        patches = self.outer(patches, drop_path, seed)
        return pixels, patches

    def maps(self, pixels: Any, patches: Any) -> tuple[Any, Any]:
        """The attention weights: inner (B N, H, M, M), None without an inner transformer, and outer (B, H, T, T)."""
        if not self.has_inner:
            return None, self.outer.maps(patches)
        return self.inner.maps(pixels), self.outer.maps(patches + self.fusion(self.inner(pixels)))
