"""Weights of a trained model set in a network: those of this package, and those of PyTorch, which are also written.

The latter have the names of timm (current and legacy) or of huawei-noah.

PyTorch keeps a dense kernel as (out, in) and a convolution's as (out, in, height, width).
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import ml_dtypes
import numpy as np
from keras import ops

from tnt_exp.errors import UserError
from tnt_exp.model import weights_file
from tnt_exp.model.attention import Attention
from tnt_exp.model.blocks import MLP, TNTBlock
from tnt_exp.model.layers import Norm
from tnt_exp.model.preprocess import interpolation_matrix
from tnt_exp.model.tnt import TNT
from tnt_exp.model.weights_file import Array

# huawei-noah's name: timm's name, for each part of a dotted name.
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

# Data types that float32 holds exactly: nothing is rounded when weights are loaded.
_DTYPES = {np.dtype(kind): np.dtype(kind).name for kind in (np.float32, np.float16, ml_dtypes.bfloat16)}

_PUBLISHED = {("patch", "norm_dense_norm"), ("image", "pixel_norm_dense")}  # stem, fusion


@dataclass(frozen=True)
class WeightMapping:
    """One variable of `TNT` and the PyTorch tensors that hold it."""

    variable: keras.Variable
    tensors: dict[str, tuple[int, ...]]  # shapes by name
    from_torch: Callable[..., Array]  # computes the variable's value from the tensors
    to_torch: Callable[[Array], tuple[Array, ...]]  # computes the tensors from the variable's value


def weight_mappings(network: TNT) -> Iterator[WeightMapping]:
    """Yield the mapping of every variable, in the order of the forward pass."""
    pixels, patches = network.pixel_embedding, network.patch_embedding
    side = network.config.pixel_grid
    yield WeightMapping(
        pixels.kernel,
        {"pixel_embed.proj.weight": tuple(pixels.kernel.shape[axis] for axis in (3, 2, 0, 1))},
        lambda weight: weight.transpose(2, 3, 1, 0),
        lambda kernel: (kernel.transpose(3, 2, 0, 1),),
    )
    yield _unchanged(pixels.bias, "pixel_embed.proj.bias")
    yield WeightMapping(
        pixels.positions,
        {"pixel_pos": (1, network.config.inner_dim, side, side)},
        lambda tensor: tensor[0].transpose(1, 2, 0).reshape(side * side, -1),
        lambda positions: (positions.reshape(1, side, side, -1).transpose(0, 3, 1, 2),),
    )
    yield from _norm(patches.pixel_norm, "norm1_proj")
    yield from _dense(patches.kernel, patches.bias, "proj")
    yield from _norm(patches.patch_norm, "norm2_proj")
    yield _unchanged(patches.token, "cls_token")
    yield WeightMapping(
        patches.positions,
        {"patch_pos": (1, *patches.positions.shape)},
        lambda tensor: tensor[0],
        lambda positions: (positions[None],),
    )
    for number, block in enumerate(network.blocks):
        yield from _block(block, f"blocks.{number}")
    yield from _norm(network.norm, "norm")
    yield from _dense(network.head.kernel, network.head.bias, "head")


def _block(block: TNTBlock, name: str) -> Iterator[WeightMapping]:
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


def _unchanged(variable: keras.Variable, name: str) -> WeightMapping:
    return WeightMapping(variable, {name: tuple(variable.shape)}, lambda tensor: tensor, lambda value: (value,))


def _norm(layer: Norm, name: str) -> Iterator[WeightMapping]:
    yield _unchanged(layer.gamma, f"{name}.weight")
    yield _unchanged(layer.beta, f"{name}.bias")


def _dense(kernel: keras.Variable, bias: keras.Variable | None, name: str) -> Iterator[WeightMapping]:
    yield WeightMapping(
        kernel, {f"{name}.weight": tuple(kernel.shape)[::-1]}, lambda weight: weight.T, lambda value: (value.T,)
    )
    if bias is not None:
        yield _unchanged(bias, f"{name}.bias")


def _mlp(layer: MLP, name: str) -> Iterator[WeightMapping]:
    yield from _dense(layer.expand_kernel, layer.expand_bias, f"{name}.fc1")
    yield from _dense(layer.reduce_kernel, layer.reduce_bias, f"{name}.fc2")


def _attention(layer: Attention, name: str) -> Iterator[WeightMapping]:
    """Map the columns q, k, v of `Attention` to timm's two tensors: q and k in one, v in the other."""
    dim, columns = layer.qkv_kernel.shape
    qk = columns // 3 * 2
    yield WeightMapping(
        layer.qkv_kernel,
        {f"{name}.qk.weight": (qk, dim), f"{name}.v.weight": (columns - qk, dim)},
        lambda qk_tensor, v_tensor: np.concatenate([qk_tensor, v_tensor]).T,
        lambda kernel: (kernel.T[:qk], kernel.T[qk:]),
    )
    if layer.qkv_bias is not None:
        yield WeightMapping(
            layer.qkv_bias,
            {f"{name}.qk.bias": (qk,), f"{name}.v.bias": (columns - qk,)},
            lambda qk_tensor, v_tensor: np.concatenate([qk_tensor, v_tensor]),
            lambda bias: (bias[:qk], bias[qk:]),
        )
    yield from _dense(layer.projection_kernel, layer.projection_bias, f"{name}.proj")


def named_weights(network: TNT) -> dict[str, keras.Variable]:
    """Return the weights of a network by their names in files of this package."""
    pairs = ((weight.path.partition("/")[2], weight) for weight in network.weights)
    return {name: weight for name, weight in pairs if "seed_generator" not in weight.path}


def load_weights(network: TNT, source: Path | TNT) -> list[str]:
    """Set the weights of a network from a file or another network: all of them, or none if something does not fit.

    A head for another number of classes keeps its initial weights. Patch positions of another image size are
    resampled as timm does it (bicubic with antialias).

    Args:
        network: A TNT; for weights from PyTorch one of a published kind, which is the paper's (`stem="patch"`,
            `fusion="norm_dense_norm"`) or timm's legacy one (`stem="image"`, `fusion="pixel_norm_dense"`).
        source: A trained network; a .safetensors file of this package; or .safetensors or a PyTorch file (which needs
            PyTorch) with the names of timm or huawei-noah. No code in a file is run.

    Returns:
        One note per weight that differs from the source.

    Raises:
        UserError: The network is of another kind, or the file is damaged, or tensors are missing, unexpected, or of
            the wrong shape or type: one line per tensor.
    """
    origin = "the network" if isinstance(source, TNT) else str(source)
    problems: list[str] = []
    if isinstance(source, TNT):
        tensors = {name: np.asarray(ops.convert_to_numpy(weight)) for name, weight in named_weights(source).items()}
        is_own = True
    else:
        is_own = source.suffix == ".safetensors" and source.is_file() and weights_file.read_header(source) is not None
        if not is_own and (problems := [*_unpublished_settings(network)]):
            raise UserError(f"model.weights: {origin} needs a published TNT.\n" + "\n".join(problems))
        tensors = weights_file.read_state_dict(source)
    if is_own:
        pending = [_unchanged(weight, name) for name, weight in named_weights(network).items()]
        head, positions = ("head/kernel", "head/bias"), "patch_embedding/positions"
    else:
        tensors, problems = _with_timm_names(tensors, network)
        pending = [*weight_mappings(network)]
        head, positions = ("head.weight", "head.bias"), "patch_pos"
    notes = []
    if _is_head_of_other_classes(tensors.get(head[0]), tensors.get(head[1]), network):
        classes = len(tensors[head[1]])
        notes.append(f"head: the file has {classes} classes, so the head keeps its initial weights")
        pending = [mapping for mapping in pending if not mapping.tensors.keys() & set(head)]
        tensors = {name: tensor for name, tensor in tensors.items() if name not in head}
    if resampled := _resample_positions(tensors.get(positions), network):
        tensors[positions], note = resampled
        notes.append(note)
    problems += _mismatches(pending, tensors)
    if problems:
        lines = "\n".join(sorted(problems))
        raise UserError(f"model.weights: {origin} does not fit the network; null trains from scratch.\n{lines}")
    for mapping in pending:
        mapping.variable.assign(mapping.from_torch(*(tensors[name].astype("float32") for name in mapping.tensors)))
    return notes


def save_timm(network: TNT, path: str | os.PathLike[str]) -> None:
    """Write a .safetensors file under timm's names: `timm.create_model(..., checkpoint_path=path)` loads it.

    timm has networks of the published kinds, see `load_weights`, with an inner transformer in each block.

    Raises:
        UserError: timm has no such network, or the file cannot be written.
    """
    if problem := timm_problem(network):
        raise UserError(f"{path}: {problem}")
    tensors: dict[str, Array] = {}
    for mapping in weight_mappings(network):
        value = np.asarray(keras.ops.convert_to_numpy(mapping.variable.value), "float32")
        tensors.update(zip(mapping.tensors, mapping.to_torch(value), strict=True))
    weights_file.write_state_dict(Path(path), tensors)


def timm_problem(network: TNT) -> str | None:
    """Return why timm has no such network, in one line; None: it has."""
    problems, config = [*_unpublished_settings(network)], network.config
    if not all(config.inner_block_mask):
        problems.append(f"model.inner_blocks: expected null (all), received {list(config.inner_blocks or ())}.")
    if config.mlp_ratio != 4:
        problems.append(f"model.mlp_ratio: expected 4, as timm's inner transformer has, received {config.mlp_ratio}.")
    return " ".join(["timm has no such TNT:", *problems]) if problems else None


def _unpublished_settings(network: TNT) -> Iterator[str]:
    """Yield one line per setting with which no weights were published; the shapes alone would not show it."""
    config = network.config
    if (config.stem, config.fusion) not in _PUBLISHED:
        yield (
            "model.stem, model.fusion: expected patch, norm_dense_norm (the paper) or image, pixel_norm_dense "
            f"(timm legacy), received {config.stem}, {config.fusion}."
        )
    for key, expected in {
        "head_width": "split",
        "pool": "class_token",
        "pixel_position": True,
        "patch_position": True,
        "pixel_projection": False,
        "patch_projection": False,
        "representation_size": None,
    }.items():
        if (value := getattr(config, key)) != expected:
            yield f"model.{key}: expected {expected}, received {value}."


def _with_timm_names(tensors: dict[str, Array], network: TNT) -> tuple[dict[str, Array], list[str]]:
    """Return the tensors under timm's names, and one line per name that occurs twice."""
    renamed: dict[str, Array] = {}
    problems = []
    for name, tensor in tensors.items():
        new = ".".join(HUAWEI.get(part, part) for part in name.split("."))
        if new in renamed:
            problems.append(f"{name}: expected once, received under two names.")
        if new == HUAWEI_UNUSED:
            continue
        if new == "pixel_pos" and tensor.ndim == 3:  # huawei-noah's layout, (1, M, C)
            side = network.config.pixel_grid
            if tensor.shape[:2] == (1, side * side):
                tensor = tensor.reshape(1, side, side, -1).transpose(0, 3, 1, 2)
        renamed[new] = tensor
    return renamed, problems


def _is_head_of_other_classes(kernel: Array | None, bias: Array | None, network: TNT) -> bool:
    """Return whether the file has an intact head for another number of classes."""
    features, classes = network.head.kernel.shape
    if kernel is None or bias is None or kernel.dtype not in _DTYPES or bias.dtype not in _DTYPES:
        return False
    return bias.ndim == 1 and sorted(kernel.shape) == sorted((len(bias), features)) and 0 < len(bias) != classes


def _resample_positions(tensor: Array | None, network: TNT) -> tuple[Array, str] | None:
    """Return patch positions resampled to the network's grid, with a note; None if they fit or cannot be resampled."""
    tokens, dim = network.patch_embedding.positions.shape
    if tensor is None or tensor.dtype not in _DTYPES or tensor.shape[-1:] != (dim,) or tensor.size % dim:
        return None
    extra = int(network.config.has_class_token)
    rows = tensor.reshape(-1, dim).astype("float64")
    old, new = math.isqrt(max(len(rows) - extra, 0)), network.config.grid
    if old < 1 or old**2 + extra != len(rows) or len(rows) == tokens:
        return None
    matrix = interpolation_matrix(old, new, "bicubic")
    grid = np.einsum("ih,jw,hwd->ijd", matrix, matrix, rows[extra:].reshape(old, old, dim), optimize=True)
    whole = np.concatenate([rows[:extra], grid.reshape(new * new, dim)]).astype("float32")
    note = f"patch positions: resampled from {old}x{old} to {new}x{new} patches"
    return whole.reshape(*tensor.shape[:-2], tokens, dim), note


def _mismatches(pending: list[WeightMapping], tensors: dict[str, Array]) -> list[str]:
    """Return one line per tensor that is missing, unexpected, or of the wrong shape or type."""
    expected = {name: shape for mapping in pending for name, shape in mapping.tensors.items()}
    problems = [f"{name}: expected {_shape(expected[name])}, missing." for name in expected.keys() - tensors.keys()]
    for name, tensor in tensors.items():
        if name not in expected:
            problems.append(f"{name}: received {_shape(tensor.shape)}, not expected.")
        elif tensor.shape != expected[name]:
            problems.append(f"{name}: expected {_shape(expected[name])}, received {_shape(tensor.shape)}.")
        elif tensor.dtype not in _DTYPES:
            problems.append(f"{name}: expected {' or '.join(_DTYPES.values())}, received {tensor.dtype}.")
    return problems


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
