"""The arguments of a TNT, checked once, and the sizes that follow from them. Plain arithmetic: imports no Keras.

Shapes: B batch, N patches per image, T tokens per image (N, and 1 for a class token), M pixel tokens per patch,
C inner width, D outer width, H heads, S side of the image in pixels.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypedDict

from tnt_exp.config.model import ModelConfig

_CHOICES = {
    "stem": ("patch", "image", "image_same"),
    "fusion": ("norm_dense", "norm_dense_norm", "pixel_norm_dense"),
    "pool": ("class_token", "average", "sequence"),
    "initialization": ("truncated_normal", "keras"),
}

Arguments = dict[str, Any]  # constructor arguments by name, whose values have many types


class LayerOptions(TypedDict, total=False):
    """The arguments that Keras gives every layer."""

    name: str | None
    dtype: object
    trainable: bool


@dataclass(frozen=True)
class TNTConfig:
    """The arguments of `TNT`, which hands them to all its layers. The defaults are the paper's.

    Raises:
        ValueError: Arguments that do not go together.
    """

    num_classes: int
    channels: int = 3  # of an image
    image_size: int = 32  # S, pixels
    patch_size: int = 8  # pixels; divides `image_size`
    stride: int = 4  # of the stem, pixels; divides `patch_size`
    depth: int = 12  # number of blocks
    embed_dim: int = 192  # D, width of a patch token (outer)
    inner_dim: int = 12  # C, width of a pixel token (inner)
    num_heads: int = 3  # of the outer transformer
    inner_num_heads: int = 2
    head_width: str = "split"  # a head is dim / heads wide (the paper); "full": dim (the keras.io example)
    mlp_ratio: float = 4.0  # hidden width of an MLP / its width, in both transformers
    qkv_bias: bool = False  # on query, key and value
    inner_blocks: tuple[int, ...] | None = None  # those with an inner transformer, from 1; None: all. See `TNTBlock`
    stem: str = "patch"  # "patch", "image" or "image_same"; see `PixelEmbedding`
    pixel_projection: bool = False  # an extra Dense on the tokens (the keras.io example)
    patch_projection: bool = False
    pixel_position: bool = True  # learnt positions
    patch_position: bool = True
    fusion: str = "norm_dense_norm"  # "norm_dense", "norm_dense_norm" or "pixel_norm_dense"; see `Fusion`
    pool: str = "class_token"  # "class_token", "average" or "sequence"; see `Pool`
    representation_size: int | None = None  # width of a tanh layer before the head; None: no such layer
    drop_path: float = 0.0  # stochastic depth of the last block, linear from 0 in the first
    embedding_dropout: float = 0.0  # of patch tokens after the positions
    attention_dropout: float = 0.0  # of attention weights
    mlp_dropout: float = 0.0  # after each Dense of an MLP
    initialization: str = "truncated_normal"  # or "keras"; see `tnt_exp.model.initializers`

    def __post_init__(self) -> None:
        for name in ("drop_path", "embedding_dropout", "attention_dropout", "mlp_dropout"):
            if not 0 <= (rate := getattr(self, name)) < 1:
                raise ValueError(f"Expected a dropout rate in [0, 1), received: {name} {rate}.")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"Expected {name} to be one of {choices}, received: {name}={value!r}.")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"Expected patch_size to divide image_size={self.image_size}, received: patch_size={self.patch_size}."
            )
        if self.patch_size % self.stride:
            raise ValueError(f"Expected stride to divide patch_size={self.patch_size}, received: stride={self.stride}.")
        # Each of these raises for what it cannot compute.
        _ = self.inner_block_mask
        for dim, num_heads in ((self.inner_dim, self.inner_num_heads), (self.embed_dim, self.num_heads)):
            _ = self.head_dim(dim, num_heads), self.hidden_dim(dim)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """N, patches per image."""
        return self.grid**2

    @property
    def pixel_grid(self) -> int:
        """Pixel tokens along one side of a patch."""
        return self.patch_size // self.stride

    @property
    def pixels(self) -> int:
        """M, pixel tokens per patch."""
        return self.pixel_grid**2

    @property
    def has_class_token(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.pool == "class_token"

    @property
    def tokens(self) -> int:
        """T, tokens per image of the outer transformer."""
        return self.patches + self.has_class_token

    @property
    def fused_dim(self) -> int:
        """M C, width of the joined pixel tokens of a patch."""
        return self.pixels * self.inner_dim

    @property
    def inner_block_mask(self) -> tuple[bool, ...]:
        """For each block, whether it has an inner transformer.

        Raises:
            ValueError: No block is named, one is named twice, or one does not exist.
        """
        if self.inner_blocks is None:
            return (True,) * self.depth
        numbers, named = range(1, self.depth + 1), set(self.inner_blocks)
        if not named or len(named) != len(self.inner_blocks) or not named <= set(numbers):
            raise ValueError(
                f"Expected inner_blocks to be different blocks from 1 to depth={self.depth}, at least one, "
                f"received: inner_blocks={tuple(self.inner_blocks)}."
            )
        return tuple(number in named for number in numbers)

    def head_dim(self, dim: int, num_heads: int) -> int:
        """Return the width of one of the heads of tokens of width `dim`.

        Raises:
            ValueError: The heads do not divide the width, or `head_width` is unknown.
        """
        if self.head_width not in ("split", "full"):
            raise ValueError(f"Expected head_width to be 'split' or 'full', received: head_width={self.head_width!r}.")
        if self.head_width == "full":
            return dim
        if dim % num_heads:
            raise ValueError(f"Expected the number of heads to divide the width {dim}, received: {num_heads} heads.")
        return dim // num_heads

    def hidden_dim(self, dim: int) -> int:
        """Return the hidden width of the MLP of tokens of width `dim`, rounded down.

        Raises:
            ValueError: It would be 0.
        """
        hidden = int(dim * self.mlp_ratio)
        if hidden < 1:
            raise ValueError(f"Expected mlp_ratio >= {1 / dim:g} at width {dim}, received: mlp_ratio={self.mlp_ratio}.")
        return hidden

    @property
    def largest_tensor_size(self) -> int:
        """Values per image of the largest tensor between two operations of a block."""
        patches, pixels, tokens = self.patches, self.pixels, self.tokens
        return max(
            self.hidden_dim(self.embed_dim) * tokens,
            self.num_heads * tokens**2,
            self.hidden_dim(self.inner_dim) * patches * pixels,
            self.inner_num_heads * patches * pixels**2,
        )

    def ineffective_settings(self) -> Iterator[str]:
        """Yield one sentence per argument that changes nothing beside these others."""
        if self.drop_path and self.depth == 1:
            yield "drop_path has no effect at depth=1: it is 0 in the first block."
        # A softmax over one token is 1.
        if self.pixels == 1:
            yield "With stride equal to patch_size a patch has one pixel token: inner attention has no effect."
        if self.patches == 1 and not self.has_class_token:
            yield "With patch_size equal to image_size there is one patch token: outer attention has no effect."


def network_options(config: ModelConfig) -> Arguments:
    """Return the arguments of `TNT` that the section `model` holds; a field and its argument have one name."""
    names = {field.name for field in dataclasses.fields(TNTConfig)}
    return {name: value for name, value in section_values(config).items() if name in names}


def section_values(config: ModelConfig) -> Arguments:
    """Return the fields of the section `model` as values that Keras can save: strings for enums, tuples for lists."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Enum):
            value = value.value
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return values
