"""Transformer in Transformer (arXiv 2103.00112).

Shapes: B batch, N patches per image, T tokens per image (N, and 1 for a class token), M pixel tokens per patch,
C inner width, D outer width, H heads, S side of the image in pixels.
"""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.blocks import TNTBlock
from tnt_exp.model.dropout import layer_seed
from tnt_exp.model.embedding import PatchEmbedding, PixelEmbedding
from tnt_exp.model.initializers import derive_seed, kernel_initializer
from tnt_exp.model.layers import Images, Norm, PatchTokens, PixelTokens, Pool, Scalar, Seed, Shape, SharedBlockTrace
from tnt_exp.model.tnt_config import Arguments, TNTConfig


@keras.saving.register_keras_serializable(package="tnt_exp")
class TNT(keras.Model):
    """Images to class scores: pixels of a patch see each other, patches of an image see each other.

    The defaults are the paper's; the paper's TNT-Ti, S and B, the keras.io example and timm's legacy variant are
    presets in conf/model. Weights are created at construction.

    Args:
        remat: Compute each block again in the backward pass instead of storing its activations: less memory,
            more time, the same numbers.
        seed: Seed of weights and dropout.
        options: The fields of `TNTConfig`, and the arguments that Keras gives every layer (`name`, `dtype`).

    Call arguments:
        images: (B, S, S, channels), floats, normalised.
        microbatch: Index of the microbatch that the images are, where all have one size; None: they are the batch.
        share_trace: Whether blocks of the same shapes are one function of a TensorFlow graph, as they are in training.

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
        remat: bool = False,
        seed: int = 0,
        **options: Any,  # values of many types
    ) -> None:
        fields = {field.name for field in dataclasses.fields(TNTConfig)}
        arguments = {name: options.pop(name) for name in fields & options.keys()}
        super().__init__(**options)
        self.config = config = TNTConfig(num_classes, channels, **arguments)
        for message in config.ineffective_settings():
            warnings.warn(message, stacklevel=2)
        self.remat = remat
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

        self.pixel_embedding = PixelEmbedding(config, **self._layer_options("pixel_embedding"))
        self.patch_embedding = PatchEmbedding(config, **self._layer_options("patch_embedding"))
        self.blocks = [
            TNTBlock(config, number, **self._layer_options(f"block_{number}")) for number in range(1, config.depth + 1)
        ]
        self.norm = Norm(name="norm", dtype=self.dtype_policy.name)
        self.pool = Pool(config, **self._layer_options("pool"))
        self.representation = None
        if config.representation_size is not None:
            self.representation = self._dense("representation", config.embed_dim, config.representation_size, "tanh")
        features = config.representation_size or config.embed_dim
        self.head = self._dense("head", features, num_classes, dtype=self.variable_dtype)  # logits keep full precision
        self.build((None, config.image_size, config.image_size, channels))

    def _layer_options(self, name: str) -> Arguments:
        return {"seed": derive_seed(self.seed, name), "name": name, "dtype": self.dtype_policy.name}

    def _dense(
        self, name: str, inputs: int, outputs: int, activation: str | None = None, dtype: str | None = None
    ) -> keras.layers.Dense:
        initializer = kernel_initializer(self.config.initialization, derive_seed(self.seed, name), inputs, outputs)
        dtype = dtype or self.dtype_policy.name
        return keras.layers.Dense(
            outputs, activation=activation, kernel_initializer=initializer, name=name, dtype=dtype
        )

    def build(self, input_shape: Shape) -> None:
        """Create the weights for images of shape (B, S, S, channels)."""
        config = self.config
        pixels = (None, config.pixels, config.inner_dim)
        patches = (None, config.tokens, config.embed_dim)
        self.pixel_embedding.build(input_shape)
        self.patch_embedding.build(pixels)
        for block in self.blocks:
            block.build(pixels, patches)
        self.norm.build(patches)
        self.pool.build(patches)
        if self.representation is not None:
            self.representation.build((None, config.embed_dim))
        self.head.build((None, config.representation_size or config.embed_dim))

    def call(
        self, images: Images, training: bool = False, microbatch: Tensor | None = None, share_trace: bool = False
    ) -> Tensor:
        """Return the logits."""
        x = self.pool(self.features(images, training, microbatch, share_trace))
        if self.representation is not None:
            x = self.representation(x)
        return self.head(x)

    def features(
        self, images: Images, training: bool = False, microbatch: Tensor | None = None, share_trace: bool = False
    ) -> PatchTokens:
        """Return the normalised tokens before pooling, (B, T, D), the class token first if there is one."""
        seed = self._next_seed(microbatch) if training else None
        pixels = self.pixel_embedding(images)
        patches = self.patch_embedding(pixels, seed)
        call_block: Callable[..., tuple[PixelTokens, PatchTokens]] = _call_rematerialised
        if not self.remat:
            call_block = SharedBlockTrace() if training or share_trace else lambda block, *inputs: block(*inputs)
        for index, block in enumerate(self.blocks):
            pixels, patches = call_block(
                block, pixels, patches, self._drop_path_rate(index), layer_seed(seed, block.name)
            )
        return self.norm(patches)

    def attention_weights(self, images: Images) -> list[tuple[Tensor | None, Tensor]]:
        """Return the attention weights of each block; each row of the last axis sums to 1.

        Inner: (B N, H, M, M), None in a block without an inner transformer. Outer: (B, H, T, T).
        """
        pixels = self.pixel_embedding(images)
        patches = self.patch_embedding(pixels)
        weights = []
        for block in self.blocks:
            weights.append(block.attention_weights(pixels, patches))
            pixels, patches = block(pixels, patches)
        return weights

    def get_config(self) -> Arguments:
        """Return the arguments, those of `TNTConfig` side by side with the others."""
        arguments = dataclasses.asdict(self.config)
        return {**super().get_config(), **arguments, "remat": self.remat, "seed": self.seed}

    def _next_seed(self, microbatch: Tensor | None) -> Seed:
        """Return the seed of one step, and advance the generator."""
        seed = ops.cast(self.seed_generator.next(), "int32")
        if microbatch is None:
            return seed
        return ops.concatenate([seed, ops.reshape(ops.cast(microbatch, "int32"), (1,))])

    def _drop_path_rate(self, index: int) -> Scalar | None:
        """Return the rate of a block, which grows linearly from 0 in the first to the last; None: no drop path."""
        if self.config.drop_path == 0:
            return None
        return ops.convert_to_tensor(self.config.drop_path * index / max(len(self.blocks) - 1, 1), "float32")


def _call_rematerialised(
    block: TNTBlock, pixels: PixelTokens, patches: PatchTokens, *others: Tensor | None
) -> tuple[PixelTokens, PatchTokens]:
    outputs: tuple[PixelTokens, PatchTokens] = keras.remat(lambda *tokens: block(*tokens, *others))(pixels, patches)
    return outputs
