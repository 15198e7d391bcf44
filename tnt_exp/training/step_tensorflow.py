"""The training step as one TensorFlow graph."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tnt_exp.model import parts
from tnt_exp.training.step import SUMS, Work


def compile_step(work: Work, *, xla: bool, devices: int) -> "TensorFlowStep":
    """A step traced once per shape of a chunk."""
    if devices == 1:
        return TensorFlowStep(work, xla=xla, streams=0 if xla else parts.streams())
    from tnt_exp.training.mirrored import MirroredStep

    return MirroredStep(work, xla=xla, devices=devices)


class TensorFlowStep:
    """See `tnt_exp.training.step.Step`.

    The graph of a step holds the optimizer's few vectors in place of the network's variables, so that it is as small
    for a deep network as for a flat one.

    Args:
        work: What a step does.
        xla: Whether XLA compiles it.
        streams: How many parts of a batch are computed side by side; 0: batches stay whole.
    """

    def __init__(self, work: Work, *, xla: bool, streams: int = 0) -> None:
        self._work = work
        self._streams = streams
        # Nothing here needs autograph, and rewriting every called function costs seconds of tracing.
        self._chunk = tf.function(self._steps, autograph=False, jit_compile=xla)

    def __call__(self, images: Any, labels: Any, first: int, rates: Sequence[float], mixing: float) -> Any:
        """Make the updates of a chunk."""
        return self._chunk(
            tf.constant(images),
            tf.constant(labels),
            tf.constant(first, tf.int32),
            tf.constant(np.asarray(rates, np.float32)),
            tf.constant(mixing, tf.float32),
        )

    def _steps(self, images: Any, labels: Any, first: Any, rates: Any, mixing: Any) -> Any:
        count = images.shape[0]
        if count == 1:
            return self._one(images[0], labels[0], first, rates[0], mixing)

        def body(index: Any, sums: Any) -> tuple[Any, Any]:
            return index + 1, sums + self._one(images[index], labels[index], first + index, rates[index], mixing)

        return tf.while_loop(
            lambda index, _: index < count, body, (tf.constant(0), tf.zeros(len(SUMS))), parallel_iterations=1
        )[1]

    def _one(self, images: Any, labels: Any, step: Any, rate: Any, mixing: Any) -> Any:
        network = self._work.network
        vectors, others = self._work.optimizer.vectors, network.non_trainable_variables
        number = parts.count(labels.shape[0], network.most_values, self._streams)
        scale = tf.cast(self._work.optimizer.scale_loss(1.0 / number), tf.float32)  # the mean over parts of one size
        shared = [[tf.convert_to_tensor(variable.value) for variable in group] for group in (vectors, others)]
        inputs = parts.joined(parts.side_by_side(self._work.augmentation.inputs, number, self._streams, step, images))
        inputs, targets = self._work.augmentation.mixed(inputs, labels, step, mixing)  # across the whole batch
        batch = (inputs, targets, labels)
        slopes, sums, after = parts.side_by_side(self._gradients, number, self._streams, (*shared, scale), *batch)
        self._work.update([tf.reduce_sum(slope, axis=0) for slope in slopes], rate)
        for variable, value in zip(others, after, strict=True):
            variable.assign(value[0])
        return tf.reduce_sum(sums, axis=0)

    def _gradients(self, part: Any, shared: Any, *batch: Any) -> tuple[list[Any], Any, list[Any]]:
        """Gradients to the vectors, sums, and what becomes of the network's other variables."""
        vectors, states, scale = shared
        network = self._work.network
        variables = [*network.trainable_variables, *network.non_trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vectors)
            mapping = zip(variables, [*self._work.optimizer.parted(vectors), *states], strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)) as scope:
                loss, sums = self._work.loss(part, *batch)
            loss = loss * scale
        after = [scope.get_current_value(variable) for variable in network.non_trainable_variables]
        return tape.gradient(loss, vectors), sums, after

    def pull(self) -> None:
        """The network's variables take the values of the vectors."""
        self._work.optimizer.scatter()

    def push(self) -> None:
        """The optimizer takes over what was assigned."""
        self._work.optimizer.gather()
