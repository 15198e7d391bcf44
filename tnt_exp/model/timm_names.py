"""Which tensors of timm's TNT (`timm.models.tnt`) hold which weight of ours, and in what layout.

PyTorch keeps a dense kernel as (out, in) and a convolution's as (out, in, height, width).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# huawei-noah's names for the same things, one part of a dotted name at a time.
HUAWEI = {
    "outer_pos": "patch_pos",
    "inner_pos": "pixel_pos",
    "patch_embed": "pixel_embed",
    "proj_norm1": "norm1_proj",
    "proj_norm2": "norm2_proj",
    "inner_norm1": "norm_in",
    "inner_attn": "attn_in",
    "inner_norm2": "norm_mlp_in",
    "inner_mlp": "mlp_in",
    "outer_norm1": "norm_out",
    "outer_attn": "attn_out",
    "outer_norm2": "norm_mlp",
    "outer_mlp": "mlp",
}
HUAWEI_UNUSED = "outer_tokens"  # zeros that their forward pass never reads


@dataclass(frozen=True)
class Link:
    """One weight of ours and the tensors that hold it.

    Args:
        variable: The weight.
        tensors: Names and shapes of the tensors.
        ours: The weight, from the tensors.
        theirs: The tensors, from the weight.
    """

    variable: Any
    tensors: dict[str, tuple[int, ...]]
    ours: Callable[..., Array]
    theirs: Callable[[Array], tuple[Array, ...]]


def links(network: Any) -> Iterator[Link]:
    """Every weight of a `TNT`, in the order of the forward pass."""
    pixels, patches = network.pixel_embedding, network.patch_embedding
    side = network.geometry.side
    yield Link(
        pixels.kernel,
        {"pixel_embed.proj.weight": tuple(pixels.kernel.shape[axis] for axis in (3, 2, 0, 1))},
        lambda weight: weight.transpose(2, 3, 1, 0),
        lambda kernel: (kernel.transpose(3, 2, 0, 1),),
    )
    yield _same(pixels.bias, "pixel_embed.proj.bias")
    yield Link(
        pixels.positions,
        {"pixel_pos": (1, pixels.inner_dim, side, side)},
        lambda tensor: tensor[0].transpose(1, 2, 0).reshape(side * side, -1),
        lambda positions: (positions.reshape(1, side, side, -1).transpose(0, 3, 1, 2),),
    )
    yield from _norm(patches.pixel_norm, "norm1_proj")
    yield from _dense(patches.kernel, patches.bias, "proj")
    yield from _norm(patches.patch_norm, "norm2_proj")
    yield _same(patches.token, "cls_token")
    yield Link(
        patches.positions,
        {"patch_pos": (1, *patches.positions.shape)},
        lambda tensor: tensor[0],
        lambda positions: (positions[None],),
    )
    for number, block in enumerate(network.blocks):
        yield from _block(block, f"blocks.{number}")
    yield from _norm(network.norm, "norm")
    yield from _dense(network.head.kernel, network.head.bias, "head")


def _block(block: Any, name: str) -> Iterator[Link]:
    if block.has_inner:
        yield from _norm(block.inner.attention_norm, f"{name}.norm_in")
        yield from _attention(block.inner.attention, f"{name}.attn_in")
        yield from _norm(block.inner.mlp_norm, f"{name}.norm_mlp_in")
        yield from _mlp(block.inner.mlp, f"{name}.mlp_in")
        yield from _norm(block.fusion.norm, f"{name}.norm1_proj")
        yield from _dense(block.fusion.kernel, block.fusion.bias, f"{name}.proj")
        if block.fusion.last_norm is not None:
            yield from _norm(block.fusion.last_norm, f"{name}.norm2_proj")
    yield from _norm(block.outer.attention_norm, f"{name}.norm_out")
    yield from _attention(block.outer.attention, f"{name}.attn_out")
    yield from _norm(block.outer.mlp_norm, f"{name}.norm_mlp")
    yield from _mlp(block.outer.mlp, f"{name}.mlp")


def _same(variable: Any, name: str) -> Link:
    return Link(variable, {name: tuple(variable.shape)}, lambda tensor: tensor, lambda value: (value,))


def _norm(layer: Any, name: str) -> Iterator[Link]:
    yield _same(layer.gamma, f"{name}.weight")
    yield _same(layer.beta, f"{name}.bias")


def _dense(kernel: Any, bias: Any, name: str) -> Iterator[Link]:
    yield Link(kernel, {f"{name}.weight": tuple(kernel.shape)[::-1]}, lambda weight: weight.T, lambda value: (value.T,))
    if bias is not None:
        yield _same(bias, f"{name}.bias")


def _mlp(layer: Any, name: str) -> Iterator[Link]:
    yield from _dense(layer.expand_kernel, layer.expand_bias, f"{name}.fc1")
    yield from _dense(layer.reduce_kernel, layer.reduce_bias, f"{name}.fc2")


def _attention(layer: Any, name: str) -> Iterator[Link]:
    """Our columns are q, k, v; theirs are q and k in one tensor, v in another."""
    dim, columns = layer.qkv_kernel.shape
    both = columns // 3 * 2
    yield Link(
        layer.qkv_kernel,
        {f"{name}.qk.weight": (both, dim), f"{name}.v.weight": (columns - both, dim)},
        lambda qk, v: np.concatenate([qk, v]).T,
        lambda kernel: (kernel.T[:both], kernel.T[both:]),
    )
    if layer.qkv_bias is not None:
        yield Link(
            layer.qkv_bias,
            {f"{name}.qk.bias": (both,), f"{name}.v.bias": (columns - both,)},
            lambda qk, v: np.concatenate([qk, v]),
            lambda bias: (bias[:both], bias[both:]),
        )
    yield from _dense(layer.projection_kernel, layer.projection_bias, f"{name}.proj")
