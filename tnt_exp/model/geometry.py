"""How a TNT's arguments become sizes. Plain arithmetic: imports no Keras.

Shape letters of this room: B batch, N patches an image, T tokens (N, and 1 for a class token),
M pixel tokens a patch, C inner width, D outer width, H heads, S side of the image in pixels.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """How an image is divided: a square of side `image_size` into patches, a patch into pixel tokens.

    Args:
        image_size: Side of the image, pixels.
        patch_size: Side of a patch, pixels; divides `image_size`.
        stride: Stride of the stem, pixels; divides `patch_size`.

    Raises:
        ValueError: One does not divide the other.
    """

    image_size: int
    patch_size: int
    stride: int

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
        """N, patches an image."""
        return self.grid**2

    @property
    def side(self) -> int:
        """Pixel tokens along one side of a patch."""
        return self.patch_size // self.stride

    @property
    def pixels(self) -> int:
        """M, pixel tokens a patch."""
        return self.side**2


def head_dim(dim: int, num_heads: int, head_width: str) -> int:
    """The width of one attention head.

    Args:
        dim: Width of a token.
        num_heads: Number of heads.
        head_width: "split": dim / num_heads; "full": dim.

    Raises:
        ValueError: The heads do not divide the width, or `head_width` is unknown.
    """
    if head_width == "full":
        return dim
    if head_width != "split":
        raise ValueError(f"Expected head_width to be 'split' or 'full', received: head_width={head_width!r}.")
    if dim % num_heads:
        raise ValueError(f"Expected the number of heads to divide the width {dim}, received: {num_heads} heads.")
    return dim // num_heads


def hidden_dim(dim: int, mlp_ratio: float) -> int:
    """The hidden width of an MLP, rounded down.

    Raises:
        ValueError: It would be 0.
    """
    hidden = int(dim * mlp_ratio)
    if hidden < 1:
        raise ValueError(f"Expected mlp_ratio >= {1 / dim:g} at width {dim}, received: mlp_ratio={mlp_ratio}.")
    return hidden


def keeps_inner(depth: int, inner_blocks: Collection[int] | None) -> tuple[bool, ...]:
    """For each block, whether it has an inner transformer.

    Args:
        depth: Number of blocks.
        inner_blocks: The blocks that have one, counted from 1; None: all.

    Raises:
        ValueError: None is named, one is named twice, or one does not exist.
    """
    if inner_blocks is None:
        return (True,) * depth
    kept = set(inner_blocks)
    if not kept or len(kept) != len(inner_blocks) or not kept <= set(range(1, depth + 1)):
        raise ValueError(
            f"Expected inner_blocks to be different blocks from 1 to depth={depth}, at least one, "
            f"received: inner_blocks={tuple(inner_blocks)}."
        )
    return tuple(number in kept for number in range(1, depth + 1))


def ineffective_settings(geometry: Geometry, depth: int, class_token: bool, drop_path: float) -> Iterator[str]:
    """What changes nothing with these arguments, a sentence each."""
    if drop_path and depth == 1:
        yield "drop_path has no effect at depth=1: it is 0 in the first block."
    # A softmax over one token is 1.
    if geometry.pixels == 1:
        yield "With stride equal to patch_size a patch has one pixel token: inner attention has no effect."
    if geometry.patches == 1 and not class_token:
        yield "With patch_size equal to image_size there is one patch token: outer attention has no effect."
