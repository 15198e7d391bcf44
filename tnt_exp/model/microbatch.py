"""A batch as parts that are computed side by side, each on one core: what a CPU is fastest at.

The operations of a small transformer are too small to be shared among cores, and their values pass through memory
where a whole batch does not fit into the cache. Parts of a batch share nothing but the weights, and are as small as
one likes.
"""

import math
from collections.abc import Callable
from typing import Any

import keras

# Bytes of the largest values between two operations: of smaller parts, starting operations costs more than the cache
# saves. Measured with the networks of 32 and of 96 pixels, see docs/performance.md.
_LARGEST = 8 * 2**20


def parallel_streams() -> int:
    """How many parts are computed at once; 0: batches stay whole.

    It is TensorFlow's threads that decide, as `tnt_exp.training.device.prepare_device` sets them: where an operation
    has one thread, only operations beside it use the other cores.
    """
    if keras.config.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    threads = tf.config.threading
    alone = threads.get_intra_op_parallelism_threads() == 1
    return threads.get_inter_op_parallelism_threads() if alone else 0


def microbatch_count(images: int, values: int, streams: int) -> int:
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


def map_microbatches(function: Callable[..., Any], number: int, streams: int, shared: Any, *tensors: Any) -> Any:
    """`function` of each part of the tensors, in a graph.

    Args:
        function: (number of the part, shared, parts of the tensors) -> structure of tensors.
        number: Of parts; divides the first axis of each tensor.
        streams: How many parts are computed at once.
        shared: Structure of tensors that every part is given whole.
        tensors: What is divided.

    Returns:
        The function's structure, each tensor with one more axis: (part, ...).
    """
    if number == 1:
        return keras.tree.map_structure(lambda value: value[None], function(None, shared, *tensors))
    import tensorflow as tf

    # One call in a loop, not inlined: else TensorFlow searches and optimises as many networks as there are parts.
    once = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
    parts = [
        tf.reshape(tensor, tf.concat([[number, tensor.shape[0] // number], tf.shape(tensor)[1:]], axis=0))
        for tensor in tensors
    ]
    form = once.get_concrete_function(tf.constant(0), shared, *[part[0] for part in parts]).structured_outputs
    return tf.map_fn(
        lambda part: once(part[0], shared, *part[1:]),
        (tf.range(number), *parts),
        parallel_iterations=streams,
        fn_output_signature=tf.nest.map_structure(lambda value: tf.TensorSpec(value.shape, value.dtype), form),
    )


def merge_microbatches(values: Any) -> Any:
    """Of values (part, images of a part, ...) those of the batch (images, ...)."""
    return keras.ops.reshape(values, (-1, *values.shape[2:]))
