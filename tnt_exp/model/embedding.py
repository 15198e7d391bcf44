"""From an image to pixel tokens, and from those to patch tokens.

Shapes: B batch, N patches per image, T tokens per image (N, and 1 for a class token), M pixel tokens per patch,
C inner width, D outer width, S side of the image in pixels.
"""

import math
from typing import Unpack

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.dropout import dropout
from tnt_exp.model.fused_ops import add_bias, dense
from tnt_exp.model.initializers import convolution_initializer, derive_seed
from tnt_exp.model.layers import Images, PatchTokens, PixelTokens, Seed, Shape, TNTLayer
from tnt_exp.model.tnt_config import LayerOptions, TNTConfig

WINDOW = 7  # side of the stem's convolution, pixels


def split_into_patches(images: Tensor, grid: int) -> Tensor:
    """Split images (B, grid q, grid q, channels) into patches (B grid grid, q, q, channels), row by row.

    This only moves values. `keras.ops.image.extract_patches` convolves with an identity, which costs arithmetic and
    rounds on a GPU.
    """
    side, channels = images.shape[1] // grid, images.shape[-1]
    rows = ops.reshape(images, (-1, grid, side, grid, side, channels))
    return ops.reshape(ops.transpose(rows, (0, 1, 3, 2, 4, 5)), (-1, side, side, channels))


def convolve(images: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Convolve images (B, S, S, channels), without padding, with a kernel (W, W, channels, C).

    On a processor JAX computes a product instead, because XLA's gradient of a strided convolution is slow there: the
    images are divided into squares of `stride` pixels, and each window covers a few of them.
    """
    if not _is_jax_on_cpu():
        return ops.conv(images, kernel, stride, "valid", data_format="channels_last")
    window, dim = kernel.shape[0], kernel.shape[-1]
    outputs = (images.shape[1] - window) // stride + 1
    covered = math.ceil(window / stride)
    grid = outputs - 1 + covered
    missing = (0, max(0, grid * stride - images.shape[1]))
    images = ops.pad(images, ((0, 0), missing, missing, (0, 0)))[:, : grid * stride, : grid * stride]
    squares = ops.reshape(split_into_patches(images, grid), (-1, grid, grid, stride**2 * images.shape[-1]))
    ends = [(row + outputs, column + outputs) for row in range(covered) for column in range(covered)]
    windows = ops.concatenate([squares[:, y - outputs : y, x - outputs : x] for y, x in ends], axis=-1)
    missing = (0, covered * stride - window)
    kernel = ops.reshape(
        ops.pad(kernel, (missing, missing, (0, 0), (0, 0))), (covered, stride, covered, stride, -1, dim)
    )
    return ops.matmul(windows, ops.reshape(ops.transpose(kernel, (0, 2, 1, 3, 4, 5)), (-1, dim)))


def _is_jax_on_cpu() -> bool:
    if keras.config.backend() != "jax":
        return False
    import jax

    return str(jax.default_backend()) == "cpu"


@keras.saving.register_keras_serializable(package="tnt_exp")
class PixelEmbedding(TNTLayer):
    """A strided 7x7 convolution of images (B, S, S, channels), split into pixel tokens (B N, M, C), with positions.

    `config.stem` is "patch": split first, then convolve inside each patch with 3 zeros around it (the paper);
    "image": convolve the image with 3 zeros around it, then split (timm legacy); or "image_same": the same with Keras'
    "same" padding, 1 zero before and 2 after at stride 4 (the keras.io example). `config.pixel_projection` adds a
    Dense on each pixel token (the keras.io example), `config.pixel_position` a learnt position of a pixel in its
    patch, the same in each patch.
    """

    def build(self, input_shape: Shape) -> None:
        """Create the weights."""
        config, channels, dim = self.config, self.config.channels, self.config.inner_dim
        seed = derive_seed(self.seed, "kernel")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(WINDOW, WINDOW, channels, dim),
            initializer=convolution_initializer(config.initialization, seed, WINDOW**2, channels, dim),
        )
        self.bias = self.add_bias("bias", dim)
        if config.pixel_projection:
            self.projection_kernel = self.add_kernel("projection_kernel", (dim, dim))
            self.projection_bias = self.add_bias("projection_bias", dim)
        if config.pixel_position:
            self.positions = self.add_position("positions", (config.pixels, dim))

    def call(self, images: Images) -> PixelTokens:
        """Return the pixel tokens."""
        config = self.config
        x = split_into_patches(images, config.grid) if config.stem == "patch" else images
        margin = (WINDOW // 2, WINDOW // 2)
        if config.stem == "image_same":
            missing = max(0, WINDOW - config.stride)
            margin = (missing // 2, missing - missing // 2)
        x = ops.pad(x, ((0, 0), margin, margin, (0, 0)))
        kernel, offset = self.kernel_and_offset()
        x = convolve(x, kernel, config.stride)
        if config.stem != "patch":
            x = split_into_patches(x, config.grid)
        return add_bias(ops.reshape(x, (-1, config.pixels, config.inner_dim)), offset)

    def kernel_and_offset(self) -> tuple[Tensor, Tensor]:
        """Return the convolution's kernel, and what is added to its outputs: (C,) or (M, C)."""
        kernel, offset = self.kernel, self.bias
        if self.config.pixel_projection:  # a Dense after a convolution is another convolution
            kernel = ops.matmul(kernel, self.projection_kernel)
            offset = ops.add(ops.matmul(offset[None], self.projection_kernel)[0], self.projection_bias)
        if self.config.pixel_position:
            offset = ops.add(offset, self.positions)
        return kernel, offset


@keras.saving.register_keras_serializable(package="tnt_exp")
class PatchEmbedding(TNTLayer):
    """From pixel tokens (B N, M, C) to patch tokens (B, T, D).

    LN, Dense, LN of the joined pixels of each patch; the class token before them; positions; dropout.

    `config.patch_projection` adds a Dense on each patch token (the keras.io example), `config.patch_position` a learnt
    position of each patch in the image (and of the class token).
    """

    def __init__(self, config: TNTConfig, *, seed: int = 0, **layer_options: Unpack[LayerOptions]) -> None:
        super().__init__(config, seed=seed, **layer_options)
        self.pixel_norm = self.add_norm("pixel_norm")
        self.patch_norm = self.add_norm("patch_norm")

    def build(self, input_shape: Shape) -> None:
        """Create the weights."""
        patches, fused_dim, dim = self.config.patches, self.config.fused_dim, self.config.embed_dim
        self.pixel_norm.build((None, patches, fused_dim))
        self.kernel = self.add_kernel("kernel", (fused_dim, dim))
        self.bias = self.add_bias("bias", dim)
        self.patch_norm.build((None, patches, dim))
        if self.config.patch_projection:
            self.projection_kernel = self.add_kernel("projection_kernel", (dim, dim))
            self.projection_bias = self.add_bias("projection_bias", dim)
        if self.config.has_class_token:
            self.token = self.add_position("class_token", (1, 1, dim))
        if self.config.patch_position:
            self.positions = self.add_position("positions", (self.config.tokens, dim))

    def call(self, pixels: PixelTokens, seed: Seed | None = None) -> PatchTokens:
        """Return the patch tokens."""
        joined = ops.reshape(pixels, (-1, self.config.fused_dim))
        kernel, bias = self.pixel_norm.fold_into(self.kernel, self.bias)
        x = ops.matmul(self.pixel_norm.standardize(joined, seed), kernel)
        if self.config.patch_projection:
            x = self.patch_norm.standardize(add_bias(x, bias), seed)
            kernel, bias = self.patch_norm.fold_into(self.projection_kernel, self.projection_bias)
            x = dense(x, kernel, bias)
        else:
            x = self.patch_norm.normalize(x, bias, (-1, self.config.embed_dim), seed)
        x = ops.reshape(x, (-1, self.config.patches, self.config.embed_dim))
        if self.config.has_class_token:
            token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, self.config.embed_dim))
            x = ops.concatenate([ops.cast(token, x.dtype), x], axis=1)
        if self.config.patch_position:
            x = x + self.positions
        return dropout(x, self.config.embedding_dropout, seed, derive_seed(self.seed, "dropout"))
