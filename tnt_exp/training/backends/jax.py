"""The training step as one JAX computation, whose state is donated from call to call.

Over several devices it stays the same computation: the arrays of a chunk are sharded over the devices by image, the
state is replicated, and the compiler inserts the exchange. The Keras variables stay on the first device. If the devices
are those of several processes, each gives its part of the images.

On a processor the batch is computed in microbatches, one after the other, each on all cores: XLA allocates the memory
of all intermediate values anew in each step, and the operating system clears its pages.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.model.microbatch import microbatch_count
from tnt_exp.training.train_step import SUMS, StepComputation

# Values of: trainable variables, other variables of the network, variables of the optimizer.
JaxState = tuple[list[Tensor], list[Tensor], list[Tensor]]


def compile_train_step(computation: StepComputation, *, xla: bool, devices: int) -> "JaxStep":
    """Return a step compiled once per shape of a chunk; JAX always uses XLA."""
    del xla
    return JaxStep(computation, devices)


class JaxStep:
    """See `tnt_exp.training.train_step.TrainStep`."""

    def __init__(self, computation: StepComputation, devices: int) -> None:
        self._computation = computation
        self._variables = (
            computation.network.trainable_variables,
            computation.network.non_trainable_variables,
            computation.optimizer.variables,
        )
        self._state: JaxState = ([], [], [])
        self._streams = 1 if devices == 1 and jax.default_backend() == "cpu" else 0
        processes = range(jax.process_count())
        own = [jax.local_devices(process_index=index)[: devices // len(processes)] for index in processes]
        mesh = Mesh(np.concatenate([np.asarray(each) for each in own]), ("images",))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._by_image = NamedSharding(mesh, PartitionSpec(None, "images"))
        layouts = (self._whole, self._by_image, self._by_image, self._whole, self._whole, self._whole)
        self._chunk = jax.jit(self._train_chunk, donate_argnums=0, in_shardings=layouts, out_shardings=self._whole)
        self.sync_from_model()

    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """See `TrainStep`."""
        if jax.process_count() > 1:
            images, labels = (
                jax.make_array_from_process_local_data(self._by_image, values) for values in (images, labels)
            )
        self._state, sums = self._chunk(
            self._state, images, labels, np.int32(first), np.asarray(rates, np.float32), np.float32(mixing)
        )
        return sums

    def _train_chunk(
        self, state: JaxState, images: Tensor, labels: Tensor, first: Tensor, rates: Tensor, mixing: Tensor
    ) -> tuple[JaxState, Tensor]:
        if images.shape[0] == 1:
            return self._train_step(state, images[0], labels[0], first, rates[0], mixing)
        steps = first + jnp.arange(images.shape[0], dtype=jnp.int32)

        def body(state: JaxState, chunk: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[JaxState, Tensor]:
            return self._train_step(state, *chunk, mixing)

        state, sums = jax.lax.scan(body, state, (images, labels, steps, rates))
        return state, jnp.sum(sums, axis=0)

    def _train_step(
        self, state: JaxState, images: Tensor, labels: Tensor, step: Tensor, rate: Tensor, mixing: Tensor
    ) -> tuple[JaxState, Tensor]:
        trainable, others, optimizing = state

        def loss_of(
            trainable: list[Tensor], index: Tensor, *batch: Tensor
        ) -> tuple[Tensor, tuple[list[Tensor], Tensor]]:
            mapping = [*zip(self._variables[0], trainable, strict=True), *zip(self._variables[1], others, strict=True)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                loss, sums = self._computation.loss(index, *batch)
            scale = self._scale(optimizing, 1 / count)
            return loss * scale, ([scope.get_current_value(variable) for variable in self._variables[1]], sums)

        config = self._computation.network.config
        count = microbatch_count(labels.shape[0], config.largest_tensor_size, self._streams)
        batch = (*self._computation.augmentation(images, labels, step, mixing), labels)
        gradients_of = jax.grad(loss_of, has_aux=True)
        if count == 1:
            gradients, (others, sums) = gradients_of(trainable, None, *batch)
        else:
            parts = [jnp.reshape(values, (count, -1, *values.shape[1:])) for values in batch]

            def add_microbatch(totals: Tensor, part: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
                gradients, (after, sums) = gradients_of(trainable, *part)
                return jax.tree.map(jnp.add, totals, (gradients, sums)), after

            zeros = (jax.tree.map(jnp.zeros_like, trainable), jnp.zeros(len(SUMS)))
            (gradients, sums), after = jax.lax.scan(add_microbatch, zeros, (jnp.arange(count), *parts))
            others = [values[0] for values in after]
        mapping = [*zip(self._variables[0], trainable, strict=True), *zip(self._variables[2], optimizing, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._computation.optimizer.copy_from_variables()  # the state has the variables alone
            self._computation.update(self._computation.optimizer.flatten(gradients), rate)
            self._computation.optimizer.copy_to_variables()
        trainable = [scope.get_current_value(variable) for variable in self._variables[0]]
        optimizing = [scope.get_current_value(variable) for variable in self._variables[2]]
        return (trainable, others, optimizing), sums

    def _scale(self, optimizing: list[Tensor], factor: float) -> Tensor:
        with keras.StatelessScope(state_mapping=list(zip(self._variables[2], optimizing, strict=True))):
            return self._computation.optimizer.scale_loss(jnp.float32(factor))

    def sync_to_model(self) -> None:
        """See `TrainStep`. Copies, because this step and Keras' evaluation both donate their arrays."""
        for variables, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(jnp.array(value.addressable_data(0), copy=True))

    def sync_from_model(self) -> None:
        """See `TrainStep`. Copies, because a step donates its arrays."""
        trainable, others, optimizing = (
            [jax.device_put(jnp.array(variable.value, copy=True), self._whole) for variable in group]
            for group in self._variables
        )
        self._state = (trainable, others, optimizing)
