"""Groups of weights: which decay, which Muon updates, how deep each lies, which are frozen. Imports no Keras."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

    from tnt_exp.model.tnt import TNT

FREEZE = ("nothing", "backbone", "all_but_head")
_BLOCK = re.compile(r"(?:^|/)block_(\d+)/")


def is_decayed(variable: "keras.Variable") -> bool:
    """Return whether weight decay applies to a variable where only matrices decay.

    Kernels of dense layers and convolutions decay; biases, norms, positions and the class token do not.
    """
    return str(variable.path).endswith("kernel")


def is_hidden_matrix(variable: "keras.Variable") -> bool:
    """Return whether a variable is a matrix within a block, which Muon updates: not an embedding, not of the head."""
    return len(variable.shape) == 2 and is_decayed(variable) and _BLOCK.search(variable.path) is not None


def layer_depth(path: str, depth: int) -> int:
    """Return how deep the weight of this `variable.path` lies in a network of `depth` blocks.

    0 for the embeddings (stem, positions, class token), i for block i, depth + 1 for the final norm, the pool and the
    head.
    """
    if block := _BLOCK.search(path):
        return int(block[1])
    return 0 if "_embedding/" in path else depth + 1


def freeze(network: "TNT", part: str) -> None:
    """Make a part of a network not trainable, and the rest trainable.

    Parts are "nothing"; "backbone": all but the final norm, the pool and the head (with its tanh layer); and
    "all_but_head": all but the head (with its tanh layer).

    Raises:
        ValueError: `part` is unknown.
    """
    if part not in FREEZE:
        raise ValueError(f"Expected freeze to be one of {FREEZE}, received: {part!r}.")
    for layer in (network.pixel_embedding, network.patch_embedding, *network.blocks):
        layer.trainable = part == "nothing"
    for layer in (network.norm, network.pool):
        layer.trainable = part != "all_but_head"
