"""The TensorFlow step over several devices: `tf.distribute.MirroredStrategy`.

Every device has a mirror of the network's values and finds the gradient of its part of the batch; the first device adds
the parts, moves Keras' own variables exactly as one device would, and sends the new values round. So optimizers,
averages, checkpoints and evaluation know nothing of mirrors.
"""

from typing import Any

import tensorflow as tf
from keras import ops

from tnt_exp.training.step import Work
from tnt_exp.training.step_tensorflow import TensorFlowStep


class MirroredStep(TensorFlowStep):
    """See `tnt_exp.training.step.Step`.

    Args:
        work: What a step does.
        xla: Whether XLA compiles what each device does.
        devices: How many, at least 2; they divide the batch.
    """

    def __init__(self, work: Work, *, xla: bool, devices: int) -> None:
        super().__init__(work, xla=False)  # the exchange between devices is not XLA's
        there = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        self._strategy = tf.distribute.MirroredStrategy([device.name for device in there[:devices]])
        self._devices = devices
        # Traced once, called on each device.
        self._share = tf.function(self._mirrored, autograph=False, jit_compile=xla)
        self._vectors = work.optimizer.vectors
        self._others = work.network.non_trainable_variables
        with self._strategy.scope():
            self._mirrors = [
                tf.Variable(variable.value, trainable=False) for variable in [*self._vectors, *self._others]
            ]

    def _one(self, images: Any, labels: Any, step: Any, rate: Any, mixing: Any) -> Any:
        scale = tf.cast(self._work.optimizer.scale_loss(1.0), tf.float32)

        def on_device() -> Any:
            context = tf.distribute.get_replica_context()
            number = tf.convert_to_tensor(context.replica_id_in_sync_group)
            values = [tf.convert_to_tensor(mirror) for mirror in self._mirrors]
            return self._share(values, number, images, labels, step, mixing, scale)

        gradients, sums, moved = self._strategy.run(on_device)
        # All from here on is the first device's.
        self._work.update([self._total(parts) / self._devices for parts in gradients], rate)
        for index, values in moved.items():
            self._others[int(index)].assign(self._strategy.experimental_local_results(values)[0])
        count = len(self._vectors)
        self._send({*range(count), *(count + int(index) for index in moved)})
        return self._total(sums)

    def push(self) -> None:
        """Send round what was assigned from outside."""
        super().push()
        self._send(set(range(len(self._mirrors))))

    def _send(self, chosen: set[int]) -> None:
        for index, variable in enumerate([*self._vectors, *self._others]):
            if index in chosen:
                self._mirrors[index].assign(variable.value)

    def _total(self, parts: Any) -> Any:
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    def _mirrored(
        self, values: list[Any], number: Any, images: Any, labels: Any, step: Any, mixing: Any, scale: Any
    ) -> tuple[list[Any], Any, dict[str, Any]]:
        """Gradients and sums of a device's part; the values, by number, of what else the network changed."""
        count = len(self._vectors)
        vectors, others = values[:count], values[count:]
        size = images.shape[0] // self._devices

        def part(rows: Any) -> Any:
            return ops.slice(rows, [number * size] + [0] * (len(rows.shape) - 1), [size, *rows.shape[1:]])

        inputs, targets = self._work.augmentation(images, labels, step, mixing)
        batch = [part(rows) for rows in (inputs, targets, labels)]
        gradients, sums, after = self._gradients(number, (vectors, others, scale), *batch)
        moved = {str(k): after[k] for k in range(len(after)) if after[k] is not others[k]}
        return gradients, sums, moved
