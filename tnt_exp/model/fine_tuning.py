"""Which weights decay, how deep a weight lies, which weights stand still. Imports no Keras."""

import re
from typing import Any

FREEZE = ("nothing", "backbone", "all_but_head")
_BLOCK = re.compile(r"(?:^|/)block_(\d+)/")


def is_decayed(variable: Any) -> bool:
    """Whether weight decay applies to a variable where only matrices decay.

    Kernels of dense layers and convolutions decay; biases, norms, positions and the class token do not.
    """
    return str(variable.path).endswith("kernel")


def depth_of(path: str, depth: int) -> int:
    """How deep a weight lies, for a learning rate that differs by depth.

    Args:
        path: `variable.path`.
        depth: Blocks of the network.

    Returns:
        0 for the embeddings (stem, positions, class token), i for block i, depth + 1 for the final norm, the pool
        and the head.
    """
    if block := _BLOCK.search(path):
        return int(block[1])
    return 0 if "_embedding/" in path else depth + 1


def freeze(network: Any, what: str) -> None:
    """Let weights of a `TNT` stand still.

    Args:
        network: The network.
        what: "nothing"; "backbone": all but the final norm, the pool and the head (with its tanh layer);
            "all_but_head": all but the head (with its tanh layer).

    Raises:
        ValueError: `what` is unknown.
    """
    if what not in FREEZE:
        raise ValueError(f"Expected freeze to be one of {FREEZE}, received: {what!r}.")
    for layer in (network.pixel_embedding, network.patch_embedding, *network.blocks):
        layer.trainable = what == "nothing"
    for layer in (network.norm, network.pool):
        layer.trainable = what != "all_but_head"
