"""From an image to pixel tokens, and from those to patch tokens."""

from typing import Any

import keras
from keras import ops

from tnt_exp.model import initializers as start
from tnt_exp.model.dropout import Dropout
from tnt_exp.model.geometry import Geometry
from tnt_exp.model.layers import Norm

WINDOW = 7  # side of the stem's convolution, pixels
STEMS = ("patch", "image", "image_same")


def cut(images: Any, grid: int) -> Any:
    """Cut images (B, grid q, grid q, channels) into patches (B grid grid, q, q, channels), row by row.

    It only moves values. `keras.ops.image.extract_patches` convolves with an identity, which costs arithmetic and
    rounds on a GPU.
    """
    side, channels = images.shape[1] // grid, images.shape[-1]
    rows = ops.reshape(images, (-1, grid, side, grid, side, channels))
    return ops.reshape(ops.transpose(rows, (0, 1, 3, 2, 4, 5)), (-1, side, side, channels))


@keras.saving.register_keras_serializable(package="tnt_exp")
class PixelEmbedding(keras.layers.Layer):
    """A strided 7x7 convolution, cut into the pixel tokens of each patch, with positions.

    Args:
        image_size, patch_size, stride: See `Geometry`.
        inner_dim: C, width of a pixel token.
        stem: "patch": cut first, then convolve inside each patch with 3 zeros around it (the paper);
            "image": convolve the image with 3 zeros around it, then cut (timm legacy);
            "image_same": so, with Keras' "same" padding, 1 zero before and 2 after at stride 4 (the keras.io example).
        projection: Extra Dense on each pixel token (the keras.io example).
        position: Learnt position of a pixel in its patch, the same in each patch.
        initialization: See `tnt_exp.model.initializers`.
        seed: Seed of the weights.

    Call arguments:
        images: (B, S, S, channels).

    Returns:
        (B N, M, C).
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        stride: int,
        inner_dim: int,
        stem: str = "patch",
        projection: bool = False,
        position: bool = True,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if stem not in STEMS:
            raise ValueError(f"Expected stem to be one of {STEMS}, received: stem={stem!r}.")
        self.geometry = Geometry(image_size, patch_size, stride)
        self.inner_dim = inner_dim
        self.stem = stem
        self.projection = projection
        self.position = position
        self.initialization = initialization
        self.seed = seed

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        channels, kind = input_shape[-1], self.initialization
        self.kernel = self.add_weight(
            name="kernel",
            shape=(WINDOW, WINDOW, channels, self.inner_dim),
            initializer=start.convolution_initializer(
                kind, start.derive_seed(self.seed, "kernel"), WINDOW**2, channels, self.inner_dim
            ),
        )
        self.bias = self.add_weight(name="bias", shape=(self.inner_dim,), initializer="zeros")
        if self.projection:
            self.projection_kernel = self.add_weight(
                name="projection_kernel",
                shape=(self.inner_dim, self.inner_dim),
                initializer=start.kernel_initializer(
                    kind, start.derive_seed(self.seed, "projection"), self.inner_dim, self.inner_dim
                ),
            )
            self.projection_bias = self.add_weight(name="projection_bias", shape=(self.inner_dim,), initializer="zeros")
        if self.position:
            self.positions = self.add_weight(
                name="positions",
                shape=(self.geometry.pixels, self.inner_dim),
                initializer=start.position_initializer(kind, start.derive_seed(self.seed, "positions")),
            )

    def call(self, images: Any) -> Any:
        """Embed."""
        grid, margin = self.geometry.grid, WINDOW // 2
        x = cut(images, grid) if self.stem == "patch" else images
        if self.stem != "image_same":
            x = ops.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        kernel, offset = self.kernel, self.bias
        if self.projection:  # of what a convolution gives: another convolution
            kernel = ops.matmul(kernel, self.projection_kernel)
            offset = ops.add(ops.matmul(offset[None], self.projection_kernel)[0], self.projection_bias)
        if self.position:
            offset = ops.add(offset, self.positions)
        padding = "same" if self.stem == "image_same" else "valid"
        x = ops.conv(x, kernel, self.geometry.stride, padding, data_format="channels_last")
        if self.stem != "patch":
            x = cut(x, grid)
        return ops.add(ops.reshape(x, (-1, self.geometry.pixels, self.inner_dim)), offset)


@keras.saving.register_keras_serializable(package="tnt_exp")
class PatchEmbedding(keras.layers.Layer):
    """LN, Dense, LN of the pixels of each patch; the class token before them; positions; dropout.

    Args:
        patches: N, patches an image.
        pixels: M, pixel tokens a patch.
        inner_dim: C, width of a pixel token.
        embed_dim: D, width of a patch token.
        projection: Extra Dense on each patch token (the keras.io example).
        position: Learnt position of a patch in the image (and of the class token).
        class_token: Put a learnt token before the patches.
        dropout: Part dropped after the positions in training.
        initialization: See `tnt_exp.model.initializers`.
        seed: Seed of weights and dropout.

    Call arguments:
        pixels: (B N, M, C).
        seed: The step's seed, None at inference.

    Returns:
        (B, T, D).
    """

    def __init__(
        self,
        patches: int,
        pixels: int,
        inner_dim: int,
        embed_dim: int,
        projection: bool = False,
        position: bool = True,
        class_token: bool = True,
        dropout: float = 0.0,
        initialization: str = "truncated_normal",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patches = patches
        self.width = pixels * inner_dim
        self.embed_dim = embed_dim
        self.projection = projection
        self.position = position
        self.class_token = class_token
        self.initialization = initialization
        self.seed = seed
        self.pixel_norm = Norm(name="pixel_norm", dtype=self.dtype_policy.name)
        self.patch_norm = Norm(name="patch_norm", dtype=self.dtype_policy.name)
        self.drop = Dropout(
            dropout, seed=start.derive_seed(seed, "dropout"), name="embedding_dropout", dtype=self.dtype_policy.name
        )

    def build(self, input_shape: Any) -> None:
        """Create the weights."""
        dim, kind = self.embed_dim, self.initialization
        self.pixel_norm.build((None, self.patches, self.width))
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.width, dim),
            initializer=start.kernel_initializer(kind, start.derive_seed(self.seed, "kernel"), self.width, dim),
        )
        self.bias = self.add_weight(name="bias", shape=(dim,), initializer="zeros")
        self.patch_norm.build((None, self.patches, dim))
        if self.projection:
            self.projection_kernel = self.add_weight(
                name="projection_kernel",
                shape=(dim, dim),
                initializer=start.kernel_initializer(kind, start.derive_seed(self.seed, "projection"), dim, dim),
            )
            self.projection_bias = self.add_weight(name="projection_bias", shape=(dim,), initializer="zeros")
        if self.class_token:
            self.token = self.add_weight(
                name="class_token",
                shape=(1, 1, dim),
                initializer=start.position_initializer(kind, start.derive_seed(self.seed, "class_token")),
            )
        if self.position:
            self.positions = self.add_weight(
                name="positions",
                shape=(self.patches + self.class_token, dim),
                initializer=start.position_initializer(kind, start.derive_seed(self.seed, "positions")),
            )

    def call(self, pixels: Any, seed: Any = None) -> Any:
        """Embed."""
        joined = ops.reshape(pixels, (-1, self.width))
        kernel, bias = self.pixel_norm.into(self.kernel, self.bias)
        x = ops.add(ops.matmul(self.pixel_norm.standardized(joined, seed), kernel), bias)
        if self.projection:
            kernel, bias = self.patch_norm.into(self.projection_kernel, self.projection_bias)
            x = ops.add(ops.matmul(self.patch_norm.standardized(x, seed), kernel), bias)
        else:
            x = self.patch_norm(x)
        x = ops.reshape(x, (-1, self.patches, self.embed_dim))
        if self.class_token:
            token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, self.embed_dim))
            x = ops.concatenate([ops.cast(token, x.dtype), x], axis=1)
        if self.position:
            x = x + self.positions
        return self.drop(x, seed)
