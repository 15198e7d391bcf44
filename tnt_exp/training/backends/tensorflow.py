"""The training step as one TensorFlow graph, on one device or on several."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model import microbatch
from tnt_exp.training.train_step import SUMS, StepComputation, TrainStep


def compile_train_step(computation: StepComputation, *, xla: bool, devices: int) -> "TensorFlowStep":
    """Return a step that is traced once per shape of a chunk."""
    if devices == 1:
        return TensorFlowStep(computation, xla=xla, streams=0 if xla else microbatch.parallel_streams())
    return MirroredStep(computation, xla=xla, devices=devices)


class TensorFlowStep(TrainStep):
    """See `TrainStep`.

    The graph of a step holds the few vectors of the optimizer in place of the network's variables, so that it is as
    small for a deep network as for a shallow one. `streams` microbatches are computed in parallel; 0: batches are not
    split.
    """

    def __init__(self, computation: StepComputation, *, xla: bool, streams: int = 0) -> None:
        super().__init__(computation)
        self._streams = streams
        # No autograph: nothing here needs it, and rewriting every called function costs seconds of tracing.
        self._chunk = tf.function(self._train_chunk, autograph=False, jit_compile=xla)

    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """See `TrainStep`."""
        return self._chunk(
            tf.constant(images),
            tf.constant(labels),
            tf.constant(first, tf.int32),
            tf.constant(np.asarray(rates, np.float32)),
            tf.constant(mixing, tf.float32),
        )

    def _train_chunk(self, images: Tensor, labels: Tensor, first: Tensor, rates: Tensor, mixing: Tensor) -> Tensor:
        count = images.shape[0]
        if count == 1:
            return self._train_step(images[0], labels[0], first, rates[0], mixing)

        def body(index: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
            return index + 1, sums + self._train_step(images[index], labels[index], first + index, rates[index], mixing)

        return tf.while_loop(
            lambda index, _: index < count, body, (tf.constant(0), tf.zeros(len(SUMS))), parallel_iterations=1
        )[1]

    def _train_step(self, images: Tensor, labels: Tensor, step: Tensor, rate: Tensor, mixing: Tensor) -> Tensor:
        network = self._computation.network
        vectors, others = self._computation.optimizer.vectors, network.non_trainable_variables
        number = microbatch.microbatch_count(labels.shape[0], network.config.largest_tensor_size, self._streams)
        # The mean over microbatches of one size.
        scale = tf.cast(self._computation.optimizer.scale_loss(1.0 / number), tf.float32)
        shared = [[tf.convert_to_tensor(variable.value) for variable in group] for group in (vectors, others)]
        inputs = microbatch.merge_microbatches(
            microbatch.map_microbatches(self._computation.augmentation.augment, number, self._streams, step, images)
        )
        inputs, targets = self._computation.augmentation.mix(inputs, labels, step, mixing)  # of the whole batch
        gradients, sums, after = microbatch.map_microbatches(
            self._gradients, number, self._streams, (*shared, scale), inputs, targets, labels
        )
        self._computation.update([tf.reduce_sum(gradient, axis=0) for gradient in gradients], rate)
        for variable, value in zip(others, after, strict=True):
            variable.assign(value[0])
        return tf.reduce_sum(sums, axis=0)

    def _gradients(
        self, microbatch_index: Tensor, shared: Tensor, *batch: Tensor
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Return gradients of the vectors, sums, and the new values of the network's other variables."""
        vectors, states, scale = shared
        network = self._computation.network
        variables = [*network.trainable_variables, *network.non_trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(vectors)
            mapping = zip(variables, [*self._computation.optimizer.unflatten(vectors), *states], strict=True)
            with keras.StatelessScope(state_mapping=list(mapping)) as scope:
                loss, sums = self._computation.loss(microbatch_index, *batch)
            loss = loss * scale
        after = [scope.get_current_value(variable) for variable in network.non_trainable_variables]
        return tape.gradient(loss, vectors), sums, after


class MirroredStep(TensorFlowStep):
    """The step over several devices: `tf.distribute.MirroredStrategy`.

    Every device mirrors the network's values and computes the gradients of its part of the batch; the first device
    adds them, updates the Keras variables exactly as one device would, and sends the new values to the others. So
    optimizer, averages, checkpoints and evaluation need not know about mirrors. At least 2 devices divide the batch;
    `xla` compiles what each of them computes.
    """

    def __init__(self, computation: StepComputation, *, xla: bool, devices: int) -> None:
        super().__init__(computation, xla=False)  # XLA cannot compile the exchange between devices
        there = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        self._strategy = tf.distribute.MirroredStrategy([device.name for device in there[:devices]])
        self._devices = devices
        # Traced once, called on each device.
        self._share = tf.function(self._mirrored, autograph=False, jit_compile=xla)
        self._variables = [*computation.optimizer.vectors, *computation.network.non_trainable_variables]
        self._count = len(computation.optimizer.vectors)
        with self._strategy.scope():
            self._mirrors = [tf.Variable(variable.value, trainable=False) for variable in self._variables]

    def _train_step(self, images: Tensor, labels: Tensor, step: Tensor, rate: Tensor, mixing: Tensor) -> Tensor:
        scale = tf.cast(self._computation.optimizer.scale_loss(1.0), tf.float32)

        def on_device() -> Tensor:
            context = tf.distribute.get_replica_context()
            number = tf.convert_to_tensor(context.replica_id_in_sync_group)
            values = [tf.convert_to_tensor(mirror) for mirror in self._mirrors]
            return self._share(values, number, images, labels, step, mixing, scale)

        gradients, sums, moved = self._strategy.run(on_device)
        # From here on only the first device computes.
        self._computation.update([self._total(parts) / self._devices for parts in gradients], rate)
        for index, values in moved.items():
            self._variables[int(index)].assign(self._strategy.experimental_local_results(values)[0])
        self._send([*range(self._count), *map(int, moved)])
        return self._total(sums)

    def sync_from_model(self) -> None:
        """Send variables that were assigned from outside to all devices."""
        super().sync_from_model()
        self._send(range(len(self._mirrors)))

    def _send(self, indices: Sequence[int]) -> None:
        for index in indices:
            self._mirrors[index].assign(self._variables[index].value)

    def _total(self, parts: Tensor) -> Tensor:
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    def _mirrored(
        self,
        values: list[Tensor],
        number: Tensor,
        images: Tensor,
        labels: Tensor,
        step: Tensor,
        mixing: Tensor,
        scale: Tensor,
    ) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """Return gradients and sums of a device's part, and the changed values of the other variables by index."""
        vectors, others = values[: self._count], values[self._count :]
        size = images.shape[0] // self._devices

        def part(rows: Tensor) -> Tensor:
            return ops.slice(rows, [number * size] + [0] * (len(rows.shape) - 1), [size, *rows.shape[1:]])

        inputs, targets = self._computation.augmentation(images, labels, step, mixing)
        batch = [part(rows) for rows in (inputs, targets, labels)]
        gradients, sums, after = self._gradients(number, (vectors, others, scale), *batch)
        changed = (k for k in range(len(after)) if after[k] is not others[k])
        moved = {str(self._count + k): after[k] for k in changed}
        return gradients, sums, moved
