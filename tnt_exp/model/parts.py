"""A batch as parts that are computed side by side, each on one core: what a CPU is fastest at.

The operations of a small transformer are too small to be shared among cores, and their values pass through memory
where a whole batch does not fit into the cache. Parts of a batch share nothing but the weights, and are as small as
one likes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

# Bytes of the largest values between two operations: of smaller parts, starting operations costs more than the cache
# saves. Measured with the networks of 32 and of 96 pixels, see docs/performance.md.
_LARGEST = 8 * 2**20


def streams() -> int:
    """How many parts are computed at once; 0: batches stay whole.

    It is TensorFlow's threads that decide, as `tnt_exp.training.device.prepare` sets them: where an operation has one
    thread, only operations beside it use the other cores.
    """
    if keras.config.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    threads = tf.config.threading
    alone = threads.get_intra_op_parallelism_threads() == 1
    return threads.get_inter_op_parallelism_threads() if alone else 0


def count(images: int, values: int, streams: int) -> int:
    """How many equal parts a batch is divided into.

    Args:
        images: Of the batch.
        values: The most that lie between two operations, float32, an image.
        streams: How many parts are computed at once; 0: the batch stays whole.
    """
    if streams == 0:
        return 1
    sizes = [size for size in range(1, images + 1) if images % size == 0]
    fits = max(1, _LARGEST // (4 * values))

    def time(size: int) -> float:
        # Rounds of parts; to start a part's operations costs what a few images cost, memory half as much as the cache.
        return math.ceil(images / size / streams) * (size + 4) * (1.5 if size > fits else 1.0)

    return images // min(reversed(sizes), key=time)


def side_by_side(function: Callable[..., Any], number: int, shared: Any, *tensors: Any) -> list[Any]:
    """`function` of each part of the tensors, in a graph; it is traced once.

    Args:
        function: (number of the part, shared, parts of the tensors) -> structure of tensors.
        number: Of parts; divides the first axis of each tensor.
        shared: Structure of tensors that every part is given whole.
        tensors: What is divided.
    """
    if number == 1:
        return [function(None, shared, *tensors)]
    import tensorflow as tf

    # Not inlined: the optimiser of graphs would see as many networks as there are parts.
    once = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    divided = [tf.split(tensor, number) for tensor in tensors]
    return [once(tf.constant(k), shared, *parts) for k, parts in enumerate(zip(*divided, strict=True))]


def joined(parts: Sequence[Any]) -> Any:
    """The values of all parts along the first axis."""
    return parts[0] if len(parts) == 1 else keras.ops.concatenate(parts)
