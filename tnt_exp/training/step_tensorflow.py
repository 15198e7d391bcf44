"""The training step as one TensorFlow graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tnt_exp.training.step import SUMS, Work


def compile_step(work: Work, *, xla: bool, devices: int) -> "TensorFlowStep":
    """A step traced once per shape of a chunk."""
    if devices == 1:
        return TensorFlowStep(work, xla=xla)
    from tnt_exp.training.mirrored import MirroredStep

    return MirroredStep(work, xla=xla, devices=devices)


class TensorFlowStep:
    """See `tnt_exp.training.step.Step`; variables are always up to date."""

    def __init__(self, work: Work, *, xla: bool) -> None:
        self._work = work
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
        variables = self._work.network.trainable_variables
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            loss, sums = self._work.forward(images, labels, step, mixing)
            loss = self._work.optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self._work.update(gradients, rate)
        return sums

    def pull(self) -> None:
        """Nothing to do."""

    def push(self) -> None:
        """The optimizer takes over what was assigned."""
        self._work.optimizer.gather()
