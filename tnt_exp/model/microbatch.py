"""A batch as microbatches that are computed in parallel, each on one core: what a CPU is fastest at.

The operations of a small transformer are too small to be shared among cores, and their values go through memory where
a whole batch does not fit into the cache. Microbatches share nothing but the weights, and can be of any size.
"""

import math
from collections.abc import Callable

import keras

from tnt_exp.augmentation.stateless_random import Tensor

# Bytes of the largest tensor between two operations that fits into the cache. With smaller ones, starting the
# operations costs more than the cache saves. Measured with the networks of 32 and of 96 pixels, see
# docs/performance.md.
_CACHE_BYTES = 8 * 2**20

Structure = Tensor  # or lists and tuples of tensors, nested


def parallel_streams() -> int:
    """Return how many microbatches TensorFlow computes in parallel; 0: batches stay whole.

    Its threads decide, as `tnt_exp.training.device.prepare_device` sets them: where an operation has one
    thread, only operations in parallel use the other cores.
    """
    import tensorflow as tf

    threads = tf.config.threading
    is_one_thread_per_operation = threads.get_intra_op_parallelism_threads() == 1
    return threads.get_inter_op_parallelism_threads() if is_one_thread_per_operation else 0


def microbatch_count(batch_size: int, tensor_size: int, streams: int) -> int:
    """Return the number of equal microbatches into which a batch of images is divided.

    `tensor_size` is the number of values per image of the largest float32 tensor between two operations; `streams`
    microbatches are computed in parallel (0: the batch stays whole).
    """
    if streams == 0:
        return 1
    sizes = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
    largest_in_cache = max(1, _CACHE_BYTES // (4 * tensor_size))

    def time(size: int) -> float:
        # Rounds of `streams` microbatches. Starting the operations of one costs as much as four images, and memory
        # costs half as much again as the cache.
        return math.ceil(batch_size / size / streams) * (size + 4) * (1.5 if size > largest_in_cache else 1.0)

    return batch_size // min(reversed(sizes), key=time)


def map_microbatches(
    function: Callable[..., Structure],
    count: int,
    streams: int,
    shared: Structure | None,
    *tensors: Tensor,
    inline: bool = False,
) -> Structure:
    """Apply `function` to `count` microbatches of the tensors, `streams` of them in parallel, in a TensorFlow graph.

    Args:
        function: (index of the microbatch, shared, microbatches of the tensors) -> structure of tensors, which is
            returned with one more axis: (microbatch, ...). The index is None where there is one, the batch.
        count: Divides the first axis of each tensor.
        shared: Structure of tensors that every call gets whole.
        inline: Whether the loop holds the function's operations instead of a call. Calls that only call further
            functions, as in a prediction, TensorFlow computes one after the other.
    """
    if count == 1:
        return keras.tree.map_structure(lambda value: value[None], function(None, shared, *tensors))
    import tensorflow as tf

    # One call in a loop: otherwise TensorFlow traces and optimises one network per microbatch.
    traced = tf.function(function, autograph=False, experimental_attributes={"_noinline": not inline})
    microbatches = [
        tf.reshape(tensor, tf.concat([[count, tensor.shape[0] // count], tf.shape(tensor)[1:]], axis=0))
        for tensor in tensors
    ]
    concrete = traced.get_concrete_function(tf.constant(0), shared, *[tensor[0] for tensor in microbatches])
    return tf.map_fn(
        lambda inputs: traced(inputs[0], shared, *inputs[1:]),
        (tf.range(count), *microbatches),
        parallel_iterations=streams,
        fn_output_signature=tf.nest.map_structure(
            lambda value: tf.TensorSpec(value.shape, value.dtype), concrete.structured_outputs
        ),
    )


def merge_microbatches(values: Tensor) -> Tensor:
    """Return values of shape (microbatch, images of a microbatch, ...) as those of the batch (images, ...)."""
    return keras.ops.reshape(values, (-1, *values.shape[2:]))
