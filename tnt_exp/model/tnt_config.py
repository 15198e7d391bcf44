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

HEAD_WIDTHS = ("split", "full")
STEMS = ("patch", "image", "image_same")
FUSIONS = ("norm_dense", "norm_dense_norm", "pixel_norm_dense")
POOLS = ("class_token", "average", "sequence")
INITIALIZATIONS = ("truncated_normal", "keras")
DROPOUT_RATES = ("drop_path", "embedding_dropout", "attention_dropout", "mlp_dropout")

# Fields of the section `model` that are no argument of `TNT`: a tag, a file, and those of `Preprocess`.
_NOT_OF_NETWORK = ("name", "weights", "mean", "std", "interpolation", "crop_fraction")


Arguments = dict[str, Any]  # constructor arguments by name, whose values have many types


class LayerOptions(TypedDict, total=False):
    """The arguments that Keras gives every layer."""

    name: str | None
    dtype: object
    trainable: bool


@dataclass(frozen=True)
class Geometry:
    """How a square image is divided into patches, and a patch into pixel tokens; all sizes are in pixels.

    Raises:
        ValueError: One does not divide the other.
    """

    image_size: int  # S
    patch_size: int  # divides `image_size`
    stride: int  # of the stem; divides `patch_size`

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"Expected patch_size to divide image_size={self.image_size}, received: patch_size={self.patch_size}."
            )
        if self.patch_size % self.stride:
            raise ValueError(f"Expected stride to divide patch_size={self.patch_size}, received: stride={self.stride}.")

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """N, patches per image."""
        return self.grid**2

    @property
    def side(self) -> int:
        """Pixel tokens along one side of a patch."""
        return self.patch_size // self.stride

    @property
    def pixels(self) -> int:
        """M, pixel tokens per patch."""
        return self.side**2


@dataclass(frozen=True)
class TNTConfig:
    """The arguments of `TNT`, which hands them to all its layers. The defaults are the paper's.

    Args:
        num_classes: Number of classes.
        channels: Channels of an image.
        image_size, patch_size, stride: See `Geometry`; M = (patch_size / stride)^2 pixel tokens per patch.
        depth: Number of blocks.
        embed_dim: D, width of a patch token (outer).
        inner_dim: C, width of a pixel token (inner).
        num_heads: Heads of the outer transformer.
        inner_num_heads: Heads of the inner transformer.
        head_width: "split": a head is dim / heads wide (the paper); "full": dim (the keras.io example).
        mlp_ratio: Hidden width of an MLP / its width, in both transformers.
        qkv_bias: Bias on query, key and value.
        inner_blocks: The blocks that have an inner transformer, counted from 1; None: all. See `TNTBlock`.
        stem: "patch", "image" or "image_same"; see `PixelEmbedding`.
        pixel_projection, patch_projection: Extra Dense on the tokens (the keras.io example).
        pixel_position, patch_position: Learnt positions.
        fusion: "norm_dense", "norm_dense_norm" or "pixel_norm_dense"; see `Fusion`.
        pool: "class_token", "average" or "sequence"; see `Pool`.
        representation_size: Width of a tanh layer before the head; None: no such layer.
        drop_path: Stochastic depth of the last block, linear from 0 in the first.
        embedding_dropout: Dropout of patch tokens after the positions.
        attention_dropout: Dropout of attention weights.
        mlp_dropout: Dropout after each Dense of an MLP.
        initialization: "truncated_normal" or "keras"; see `tnt_exp.model.initializers`.

    Raises:
        ValueError: Arguments that do not go together.
    """

    num_classes: int
    channels: int = 3
    image_size: int = 32
    patch_size: int = 8
    stride: int = 4
    depth: int = 12
    embed_dim: int = 192
    inner_dim: int = 12
    num_heads: int = 3
    inner_num_heads: int = 2
    head_width: str = "split"
    mlp_ratio: float = 4.0
    qkv_bias: bool = False
    inner_blocks: tuple[int, ...] | None = None
    stem: str = "patch"
    pixel_projection: bool = False
    patch_projection: bool = False
    pixel_position: bool = True
    patch_position: bool = True
    fusion: str = "norm_dense_norm"
    pool: str = "class_token"
    representation_size: int | None = None
    drop_path: float = 0.0
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    initialization: str = "truncated_normal"

    def __post_init__(self) -> None:
        for name in DROPOUT_RATES:
            check_rate(name, getattr(self, name))
        for name, choices in (
            ("stem", STEMS),
            ("fusion", FUSIONS),
            ("pool", POOLS),
            ("initialization", INITIALIZATIONS),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"Expected {name} to be one of {choices}, received: {name}={value!r}.")
        # Each of these raises for what it cannot compute.
        _ = self.geometry, self.inner_block_mask
        for dim, num_heads in ((self.inner_dim, self.inner_num_heads), (self.embed_dim, self.num_heads)):
            _ = self.head_dim(dim, num_heads), self.hidden_dim(dim)

    @property
    def geometry(self) -> Geometry:
        """How an image is divided."""
        return Geometry(self.image_size, self.patch_size, self.stride)

    @property
    def has_class_token(self) -> bool:
        """Whether a class token stands before the patches."""
        return self.pool == "class_token"

    @property
    def tokens(self) -> int:
        """T, tokens per image of the outer transformer."""
        return self.geometry.patches + self.has_class_token

    @property
    def fused_dim(self) -> int:
        """M C, width of the joined pixel tokens of a patch."""
        return self.geometry.pixels * self.inner_dim

    @property
    def inner_block_mask(self) -> tuple[bool, ...]:
        """For each block, whether it has an inner transformer.

        Raises:
            ValueError: No block is named, one is named twice, or one does not exist.
        """
        numbers = range(1, self.depth + 1)
        if self.inner_blocks is None:
            return (True,) * self.depth
        named = set(self.inner_blocks)
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
        if self.head_width not in HEAD_WIDTHS:
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
        patches, pixels, tokens = self.geometry.patches, self.geometry.pixels, self.tokens
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
        if self.geometry.pixels == 1:
            yield "With stride equal to patch_size a patch has one pixel token: inner attention has no effect."
        if self.geometry.patches == 1 and not self.has_class_token:
            yield "With patch_size equal to image_size there is one patch token: outer attention has no effect."


def network_options(config: ModelConfig) -> Arguments:
    """Return the arguments of `TNT` that the section `model` holds; a field and its argument have one name."""
    options = section_values(config)
    return {name: value for name, value in options.items() if name not in _NOT_OF_NETWORK}


def section_values(config: ModelConfig) -> Arguments:
    """Return the fields of the section `model` as values that Keras can save: strings for enums, tuples for lists."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Enum):
            value = value.value
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return values


def check_rate(name: str, rate: float) -> None:
    """Raise `ValueError` unless `rate` is in [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"Expected a dropout rate in [0, 1), received: {name} {rate}.")
