"""What a configuration costs: parameters, arithmetic, memory. Plain arithmetic: imports no Keras.

A test compares these numbers with those of the built model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tnt_exp.config.model import ModelConfig
from tnt_exp.model.tnt_config import TNTConfig, network_options

_WINDOW = 7**2  # pixels under the stem's convolution


@dataclass(frozen=True)
class CostItem:
    """The cost of one part of the network, for one image."""

    name: str  # an embedding, a block, or the head with norm and pool
    parameters: int  # numbers that are learnt
    macs: int  # multiply-accumulate operations of convolutions and matrix products in a forward pass
    activations: int  # numbers that a training step stores for its backward pass


def parameters(config: ModelConfig, num_classes: int, channels: int) -> int:
    """Return the number of parameters.

    Raises:
        ValueError: Values of the configuration do not go together (so do the functions below).
    """
    return sum(item.parameters for item in cost_items(config, num_classes, channels))


def macs(config: ModelConfig, num_classes: int, channels: int) -> int:
    """Return the multiply-accumulate operations of a forward pass of one image, without normalisation and resizing."""
    return sum(item.macs for item in cost_items(config, num_classes, channels))


def activation_bytes(
    config: ModelConfig, num_classes: int, channels: int, *, width: int = 4, remat: bool = False
) -> int:
    """Estimate the memory that a training step needs per image: what the backward pass reads again.

    Counted are inputs of products, of norms and of GELU, and attention weights. A compiler may store less, and dropout
    adds its masks. A number has `width` bytes: 4, or 2 under mixed precision. With `remat`, blocks are computed again:
    only their inputs are stored, and the activations of one block at a time.
    """
    stored = {item.name: item.activations for item in cost_items(config, num_classes, channels)}
    if remat:
        tnt = TNTConfig(num_classes, channels, **network_options(config))
        block_input = tnt.patches * tnt.fused_dim + tnt.tokens * tnt.embed_dim
        blocks = {name: stored.pop(name) for name in list(stored) if name.startswith("block_")}
        stored["blocks"] = len(blocks) * block_input + max(blocks.values())
    return width * sum(stored.values())


def cost_items(config: ModelConfig, num_classes: int, channels: int) -> Iterator[CostItem]:
    """Yield the cost of each part, in the order of the forward pass."""
    tnt = TNTConfig(num_classes, channels, **network_options(config))
    yield _pixel_embedding(tnt)
    yield _patch_embedding(tnt)
    patches, pixels = tnt.patches, tnt.pixels
    outer = _transformer(tnt, tnt.embed_dim, tnt.num_heads, sequences=1, tokens=tnt.tokens)
    inner = _transformer(tnt, tnt.inner_dim, tnt.inner_num_heads, sequences=patches, tokens=pixels)
    fusion = _fusion(tnt)
    for number, has_inner in enumerate(tnt.inner_block_mask, start=1):
        layers = [inner, fusion, outer] if has_inner else [outer]
        yield CostItem(f"block_{number}", *(sum(column) for column in zip(*layers, strict=True)))
    yield _head(tnt)


def _pixel_embedding(tnt: TNTConfig) -> CostItem:
    dim, pixels = tnt.inner_dim, tnt.patches * tnt.pixels
    projection = dim**2 + dim if tnt.pixel_projection else 0
    return CostItem(
        "pixel_embedding",
        (_WINDOW * tnt.channels + 1) * dim + projection + (tnt.fused_dim if tnt.pixel_position else 0),
        pixels * dim * (_WINDOW * tnt.channels + (dim if tnt.pixel_projection else 0)),
        tnt.image_size**2 * tnt.channels + (pixels * dim if tnt.pixel_projection else 0),
    )


def _patch_embedding(tnt: TNTConfig) -> CostItem:
    dim, fused_dim, patches = tnt.embed_dim, tnt.fused_dim, tnt.patches
    projection = dim**2 + dim if tnt.patch_projection else 0
    class_token = dim if tnt.has_class_token else 0
    positions = tnt.tokens * dim if tnt.patch_position else 0
    return CostItem(
        "patch_embedding",
        2 * fused_dim + fused_dim * dim + 3 * dim + projection + class_token + positions,
        patches * dim * (fused_dim + (dim if tnt.patch_projection else 0)),
        patches * (2 * fused_dim + dim * (2 if tnt.patch_projection else 1)),
    )


def _transformer(tnt: TNTConfig, dim: int, heads: int, *, sequences: int, tokens: int) -> tuple[int, int, int]:
    """Return parameters, MACs and activations of one transformer block."""
    width = heads * tnt.head_dim(dim, heads)
    hidden = tnt.hidden_dim(dim)
    rows = sequences * tokens
    matrices = 4 * dim * width + 2 * dim * hidden
    biases = (3 * width if tnt.qkv_bias else 0) + dim + hidden + dim
    norms = 4 * dim
    attention = 2 * rows * tokens * width
    # Twice a norm's input and output; q, k, v and the mixed values; attention weights; the MLP around its GELU.
    activations = rows * (4 * dim + 4 * width + heads * tokens + 2 * hidden)
    return matrices + biases + norms, rows * matrices + attention, activations


def _fusion(tnt: TNTConfig) -> tuple[int, int, int]:
    """Return parameters, MACs and activations of the fusion."""
    dim, fused_dim, patches = tnt.embed_dim, tnt.fused_dim, tnt.patches
    has_last_norm = tnt.fusion == "norm_dense_norm"
    norm = 2 * (tnt.inner_dim if tnt.fusion == "pixel_norm_dense" else fused_dim)
    last = 2 * dim if has_last_norm else dim  # a norm's two vectors, or a bias
    activations = patches * (2 * fused_dim + (dim if has_last_norm else 0))
    return norm + fused_dim * dim + last, patches * fused_dim * dim, activations


def _head(tnt: TNTConfig) -> CostItem:
    """Return the cost of the last norm, the pool, the tanh layer and the head."""
    dim, tokens, representation = tnt.embed_dim, tnt.tokens, tnt.representation_size or 0
    features = representation or dim
    score = dim if tnt.pool == "sequence" else 0
    return CostItem(
        "head",
        2 * dim + score + (dim + 1) * representation + (features + 1) * tnt.num_classes,
        2 * tokens * score + dim * representation + features * tnt.num_classes,
        tokens * dim + (tokens * dim if score else 0) + dim + representation,
    )
