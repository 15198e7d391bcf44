"""Transformer in Transformer (arXiv 2103.00112)."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tnt_exp.model import initializers as start
from tnt_exp.model.blocks import TNTBlock
from tnt_exp.model.dropout import check_rate, seed_of
from tnt_exp.model.embedding import PatchEmbedding, PixelEmbedding
from tnt_exp.model.geometry import Geometry, ineffective_settings, keeps_inner
from tnt_exp.model.layers import Norm, Pool, SharedBlockTrace


@keras.saving.register_keras_serializable(package="tnt_exp")
class TNT(keras.Model):
    """Images to class scores: pixels of a patch see each other, patches of an image see each other.

    The defaults are the paper's; the paper's TNT-Ti, S and B, the keras.io example and timm's legacy variant are
    presets in conf/model. Weights are created at construction.

    Args:
        num_classes: Classes.
        channels: Channels of an image.
        image_size: S, side of the square image, pixels.
        patch_size: Side of a patch, pixels; divides `image_size`.
        stride: Stride of the stem, pixels; divides `patch_size`. M = (patch_size / stride)^2 pixel tokens a patch.
        depth: Blocks.
        embed_dim: D, width of a patch token (outer).
        inner_dim: C, width of a pixel token (inner).
        num_heads: Heads of the outer transformer.
        inner_num_heads: Heads of the inner transformer.
        head_width: "split" or "full"; see `Attention`.
        mlp_ratio: Hidden width of an MLP / its width, of both transformers.
        qkv_bias: Bias on query, key and value.
        inner_blocks: The blocks that keep the inner transformer, counted from 1; None: all. See `TNTBlock`.
        stem: "patch", "image" or "image_same"; see `PixelEmbedding`.
        pixel_projection, patch_projection: Extra Dense on the tokens (the keras.io example).
        pixel_position, patch_position: Learnt positions.
        fusion: "norm_dense", "norm_dense_norm" or "pixel_norm_dense"; see `Fusion`.
        pool: "class_token", "average" or "sequence"; see `Pool`.
        representation_size: Width of a tanh layer before the head; None: none.
        drop_path: Stochastic depth of the last block, linear from 0 in the first.
        embedding_dropout: Dropout of patch tokens after the positions.
        attention_dropout: Dropout of attention weights.
        mlp_dropout: Dropout after each Dense of an MLP.
        initialization: "truncated_normal" or "keras"; see `tnt_exp.model.initializers`.
        remat: Compute each block again in the backward pass instead of keeping its activations: less memory,
            more time, the same numbers.
        seed: Seed of weights and dropout.

    Call arguments:
        images: (B, S, S, channels), floats, normalised.
        training: Whether to drop.
        microbatch: The number of the microbatch that the images are, all of one size; None: they are the whole batch.

    Returns:
        Logits (B, num_classes); float32 under mixed precision too.

    Raises:
        ValueError: Arguments that do not go together.
    """

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        *,
        image_size: int = 32,
        patch_size: int = 8,
        stride: int = 4,
        depth: int = 12,
        embed_dim: int = 192,
        inner_dim: int = 12,
        num_heads: int = 3,
        inner_num_heads: int = 2,
        head_width: str = "split",
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        inner_blocks: tuple[int, ...] | None = None,
        stem: str = "patch",
        pixel_projection: bool = False,
        patch_projection: bool = False,
        pixel_position: bool = True,
        patch_position: bool = True,
        fusion: str = "norm_dense_norm",
        pool: str = "class_token",
        representation_size: int | None = None,
        drop_path: float = 0.0,
        embedding_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        mlp_dropout: float = 0.0,
        initialization: str = "truncated_normal",
        remat: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        arguments = {key: value for key, value in locals().items() if key not in ("self", "kwargs", "__class__")}
        super().__init__(**kwargs)
        self._arguments = arguments
        for name in ("drop_path", "embedding_dropout", "attention_dropout", "mlp_dropout"):
            check_rate(name, arguments[name])
        geometry = Geometry(image_size, patch_size, stride)
        class_token = pool == "class_token"
        for message in ineffective_settings(geometry, depth, class_token, drop_path):
            warnings.warn(message, stacklevel=2)

        def place(name: str) -> dict[str, Any]:
            return {"seed": start.derive_seed(seed, name), "name": name, "dtype": self.dtype_policy.name}

        self.geometry = geometry
        self.remat = remat
        self.drop_path = drop_path
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.pixel_embedding = PixelEmbedding(
            image_size,
            patch_size,
            stride,
            inner_dim,
            stem,
            pixel_projection,
            pixel_position,
            initialization,
            **place("pixel_embedding"),
        )
        self.patch_embedding = PatchEmbedding(
            geometry.patches,
            geometry.pixels,
            inner_dim,
            embed_dim,
            patch_projection,
            patch_position,
            class_token,
            embedding_dropout,
            initialization,
            **place("patch_embedding"),
        )
        self.blocks = [
            TNTBlock(
                geometry.patches,
                geometry.pixels,
                inner_dim,
                embed_dim,
                num_heads,
                inner_num_heads,
                inner,
                head_width,
                mlp_ratio,
                qkv_bias,
                fusion,
                class_token,
                attention_dropout,
                mlp_dropout,
                initialization,
                **place(f"block_{number}"),
            )
            for number, inner in enumerate(keeps_inner(depth, inner_blocks), start=1)
        ]
        self.norm = Norm(name="norm", dtype=self.dtype_policy.name)
        self.pool = Pool(pool, initialization, **place("pool"))
        self.representation = None
        if representation_size is not None:
            self.representation = keras.layers.Dense(
                representation_size,
                activation="tanh",
                kernel_initializer=start.kernel_initializer(
                    initialization, start.derive_seed(seed, "representation"), embed_dim, representation_size
                ),
                name="representation",
                dtype=self.dtype_policy.name,
            )
        features = representation_size or embed_dim
        self.head = keras.layers.Dense(
            num_classes,
            kernel_initializer=start.kernel_initializer(
                initialization, start.derive_seed(seed, "head"), features, num_classes
            ),
            dtype=self.variable_dtype,  # logits keep full precision
            name="head",
        )
        self.build((None, image_size, image_size, channels))

    def build(self, input_shape: Any) -> None:
        """Create the weights for images of shape (B, S, S, channels)."""
        pixels = (None, self.geometry.pixels, self.pixel_embedding.inner_dim)
        patches = (None, self.geometry.patches + self.patch_embedding.class_token, self.patch_embedding.embed_dim)
        self.pixel_embedding.build(input_shape)
        self.patch_embedding.build(pixels)
        for block in self.blocks:
            block.build(pixels, patches)
        self.norm.build(patches)
        self.pool.build(patches)
        if self.representation is not None:
            self.representation.build((None, patches[-1]))
        self.head.build((None, patches[-1] if self.representation is None else self.representation.units))

    def call(self, images: Any, training: bool = False, microbatch: Any = None) -> Any:
        """Classify."""
        x = self.pool(self.features(images, training, microbatch))
        if self.representation is not None:
            x = self.representation(x)
        return self.head(x)

    def features(self, images: Any, training: bool = False, microbatch: Any = None) -> Any:
        """The tokens before pooling, normalised: (B, T, D), a class token first."""
        seed = ops.cast(self.seed_generator.next(), "int32") if training else None
        if training and microbatch is not None:
            seed = ops.concatenate([seed, ops.reshape(ops.cast(microbatch, "int32"), (1,))])
        pixels = self.pixel_embedding(images)
        patches = self.patch_embedding(pixels, seed)
        apply = self._apply(training)
        for number, block in enumerate(self.blocks):
            pixels, patches = apply(block, pixels, patches, self._drop_path(number), seed_of(seed, block.name))
        return self.norm(patches)

    @property
    def most_values(self) -> int:
        """The most values that lie between two operations of a block, an image."""
        pixels = self.geometry.patches * self.geometry.pixels
        tokens = self.geometry.patches + self.patch_embedding.class_token
        found = [0]
        for block in self.blocks:
            found += [block.outer.mlp.hidden * tokens, block.outer.attention.num_heads * tokens**2]
            if block.has_inner:
                inner = block.inner.attention.num_heads * self.geometry.pixels
                found += [block.inner.mlp.hidden * pixels, inner * pixels]
        return max(found)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**super().get_config(), **self._arguments}

    def _apply(self, training: bool) -> Callable[..., Any]:
        """What calls a block."""
        if self.remat:
            return lambda block, pixels, patches, *rest: keras.remat(lambda *tokens: block(*tokens, *rest))(
                pixels, patches
            )
        return SharedBlockTrace() if training else lambda block, *arguments: block(*arguments)

    def _drop_path(self, number: int) -> Any:
        """The rate of a block, which grows from 0 in the first to the last."""
        if self.drop_path == 0:
            return None
        return ops.convert_to_tensor(self.drop_path * number / max(len(self.blocks) - 1, 1), "float32")

    def block_outputs(self, images: Any) -> list[tuple[Any, Any]]:
        """Pixel tokens (B N, M, C) and patch tokens (B, T, D) after each block."""
        pixels = self.pixel_embedding(images)
        patches = self.patch_embedding(pixels)
        outputs = []
        for block in self.blocks:
            pixels, patches = block(pixels, patches)
            outputs.append((pixels, patches))
        return outputs

    def attention(self, images: Any) -> list[tuple[Any, Any]]:
        """The attention weights of each block; each row of the last axis sums to 1.

        Inner: (B N, heads, M, M), None in a block without an inner transformer. Outer: (B, heads, T, T).
        """
        pixels = self.pixel_embedding(images)
        patches = self.patch_embedding(pixels)
        maps = []
        for block in self.blocks:
            maps.append(block.maps(pixels, patches))
            pixels, patches = block(pixels, patches)
        return maps
