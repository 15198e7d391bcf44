"""What a configuration costs: parameters, arithmetic, memory. Plain arithmetic: imports no Keras.

A test holds these numbers equal to those of the built model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tnt_exp.config.model import Fusion, ModelConfig, Pool
from tnt_exp.model.geometry import Geometry, head_dim, hidden_dim, keeps_inner

_WINDOW = 7**2  # pixels under the stem's convolution


@dataclass(frozen=True)
class CostItem:
    """The cost of one part of the network, for one image.

    Args:
        name: Where it is.
        parameters: Numbers that are learnt.
        macs: Multiply-accumulate operations of convolutions and matrix products in a forward pass.
        activations: Numbers that a training step keeps for its backward pass.
    """

    name: str
    parameters: int
    macs: int
    activations: int


def parameters(config: ModelConfig, num_classes: int, channels: int) -> int:
    """Numbers that are learnt.

    Raises:
        ValueError: Values of the configuration do not go together (so do the functions below).
    """
    return sum(part.parameters for part in cost_items(config, num_classes, channels))


def macs(config: ModelConfig, num_classes: int, channels: int) -> int:
    """Multiply-accumulate operations of a forward pass of one image; normalisation and resizing not counted."""
    return sum(part.macs for part in cost_items(config, num_classes, channels))


def activation_bytes(
    config: ModelConfig, num_classes: int, channels: int, *, width: int = 4, remat: bool = False
) -> int:
    """Memory that a training step needs for one image, by an estimate: what the backward pass reads again.

    Counted are inputs of products, of norms and of GELU, and attention weights. A compiler may keep less, and dropout
    adds its masks.

    Args:
        config: The section `model`.
        num_classes: Classes.
        channels: Channels of an image.
        width: Bytes a number: 4, or 2 under mixed precision.
        remat: Blocks are computed again: only their inputs are kept, and one block is unfolded at a time.
    """
    kept = {part.name: part.activations for part in cost_items(config, num_classes, channels)}
    if remat:
        geometry = Geometry(config.image_size, config.patch_size, config.stride)
        block_input = geometry.patches * geometry.pixels * config.inner_dim + _tokens(config) * config.embed_dim
        blocks = {name: kept.pop(name) for name in list(kept) if name.startswith("block_")}
        kept["blocks"] = len(blocks) * block_input + max(blocks.values())
    return width * sum(kept.values())


def cost_items(config: ModelConfig, num_classes: int, channels: int) -> Iterator[CostItem]:
    """The cost of each part, in the order of the forward pass."""
    geometry = Geometry(config.image_size, config.patch_size, config.stride)
    patches, pixels = geometry.patches, geometry.pixels
    tokens = _tokens(config)
    inner, outer = config.inner_dim, config.embed_dim
    joined = pixels * inner
    all_pixels = patches * pixels

    extra = inner**2 + inner if config.pixel_projection else 0
    yield CostItem(
        "pixel_embedding",
        (_WINDOW * channels + 1) * inner + extra + (joined if config.pixel_position else 0),
        all_pixels * inner * (_WINDOW * channels + (inner if config.pixel_projection else 0)),
        config.image_size**2 * channels + (all_pixels * inner if config.pixel_projection else 0),
    )

    extra = outer**2 + outer if config.patch_projection else 0
    class_token = outer if config.pool is Pool.class_token else 0
    yield CostItem(
        "patch_embedding",
        2 * joined
        + joined * outer
        + 3 * outer
        + extra
        + class_token
        + (tokens * outer if config.patch_position else 0),
        patches * outer * (joined + (outer if config.patch_projection else 0)),
        patches * (2 * joined + outer * (2 if config.patch_projection else 1)),
    )

    over_patches = _transformer(config, outer, config.num_heads, sequences=1, tokens=tokens)
    over_pixels = _transformer(config, inner, config.inner_num_heads, sequences=patches, tokens=pixels)
    fusion = _fusion(config, patches, joined)
    for number, has_inner in enumerate(keeps_inner(config.depth, config.inner_blocks), start=1):
        pieces = [over_pixels, fusion, over_patches] if has_inner else [over_patches]
        yield CostItem(f"block_{number}", *(sum(column) for column in zip(*pieces, strict=True)))

    head = config.representation_size or outer
    score = outer if config.pool is Pool.sequence else 0
    representation = (outer + 1) * head if config.representation_size else 0
    yield CostItem(
        "head",
        2 * outer + score + representation + (head + 1) * num_classes,
        2 * tokens * score + (outer * head if config.representation_size else 0) + head * num_classes,
        tokens * outer + (tokens * outer if score else 0) + outer + (head if config.representation_size else 0),
    )


def _tokens(config: ModelConfig) -> int:
    patches = Geometry(config.image_size, config.patch_size, config.stride).patches
    return patches + 1 if config.pool is Pool.class_token else patches


def _transformer(config: ModelConfig, dim: int, heads: int, *, sequences: int, tokens: int) -> tuple[int, int, int]:
    """Parameters, MACs and activations of one transformer block."""
    width = heads * head_dim(dim, heads, config.head_width.value)
    hidden = hidden_dim(dim, config.mlp_ratio)
    rows = sequences * tokens
    matrices = 4 * dim * width + 2 * dim * hidden
    biases = (3 * width if config.qkv_bias else 0) + dim + hidden + dim
    norms = 4 * dim
    attention = 2 * rows * tokens * width
    # Twice a norm's input and output; q, k, v and the mixed values; attention weights; the MLP around its GELU.
    activations = rows * (4 * dim + 4 * width + heads * tokens + 2 * hidden)
    return matrices + biases + norms, rows * matrices + attention, activations


def _fusion(config: ModelConfig, patches: int, joined: int) -> tuple[int, int, int]:
    """Parameters, MACs and activations of the fusion."""
    outer = config.embed_dim
    norm = 2 * (config.inner_dim if config.fusion is Fusion.pixel_norm_dense else joined)
    last = 2 * outer if config.fusion is Fusion.norm_dense_norm else outer  # a norm's two vectors, or a bias
    activations = patches * (2 * joined + (outer if config.fusion is Fusion.norm_dense_norm else 0))
    return norm + joined * outer + last, patches * joined * outer, activations
