"""The training step as one JAX computation, whose state is donated from call to call.

Over several devices it stays the same computation: the arrays of a chunk are sharded over the devices by image, the
state is replicated, and the compiler inserts the exchange. The Keras variables stay on the first device. If the devices
are those of several processes, each gives its part of the images.

On a processor the batch is computed in microbatches (`tnt_exp.model.microbatch`) by three computations: what comes
before the network, the network, and the update. The processor is several devices of JAX, one per core, and each
computes its part of the microbatches, one after the other: XLA allocates the memory of all intermediate values anew,
and the operating system clears its pages. The devices exchange nothing while they compute, so none waits for another.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.training.train_step import SUMS, StepComputation, TrainStep

# Values of: trainable variables, other variables of the network, variables of the optimizer.
JaxState = tuple[list[Tensor], list[Tensor], list[Tensor]]

# Bytes of the largest tensor between two operations of a microbatch: more are slower (docs/performance.md).
_CACHE_BYTES = 3 * 2**19


def microbatch_count(batch_size: int, tensor_size: int, cores: int) -> int:
    """Return the number of equal microbatches into which a processor divides a batch of images, if it does not fit into
    the cache: at least one per core. `tensor_size`: see `tnt_exp.model.microbatch.microbatch_count`.
    """
    fitting = _CACHE_BYTES // (4 * tensor_size)
    if cores == 0 or batch_size <= fitting:
        return 1
    largest = max(1, min(fitting, batch_size // cores))
    return batch_size // max(size for size in range(1, largest + 1) if batch_size % size == 0)


def compile_train_step(computation: StepComputation, *, xla: bool, devices: int) -> "JaxStep":
    """Return a step compiled once per shape of a chunk; JAX always uses XLA."""
    return JaxStep(computation, devices)


class JaxStep(TrainStep):
    """See `TrainStep`."""

    def __init__(self, computation: StepComputation, devices: int) -> None:
        super().__init__(computation)
        self._variables = (
            computation.network.trainable_variables,
            computation.network.non_trainable_variables,
            computation.optimizer.variables,
        )
        self._state: JaxState = ([], [], [])
        self._cores = jax.local_devices() if devices == 1 and jax.default_backend() == "cpu" else []
        processes = range(jax.process_count())
        own = [jax.local_devices(process_index=index)[: devices // len(processes)] for index in processes]
        mesh = Mesh(np.concatenate([np.asarray(each) for each in own]), ("images",))
        self._whole = NamedSharding(mesh, PartitionSpec())
        self._by_image = NamedSharding(mesh, PartitionSpec(None, "images"))
        layouts = (self._whole, self._by_image, self._by_image, self._whole, self._whole, self._whole)
        self._chunk = jax.jit(self._train_chunk, donate_argnums=0, in_shardings=layouts, out_shardings=self._whole)
        self._prepare = jax.jit(self._prepare_microbatches, static_argnums=0)
        self._sums_by_core = jax.jit(self._add_microbatches, static_argnums=0)
        self._update = jax.jit(self._update_by_cores, donate_argnums=0, out_shardings=self._whole)
        self.sync_from_model()

    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """See `TrainStep`."""
        if jax.process_count() > 1:
            images, labels = (
                jax.make_array_from_process_local_data(self._by_image, values) for values in (images, labels)
            )
        size = self._computation.network.config.largest_tensor_size
        count = microbatch_count(images.shape[1], size, len(self._cores))
        if count > 1:
            steps = np.arange(first, first + len(images), dtype=np.int32)
            batches = zip(images, labels, steps, np.asarray(rates, np.float32), strict=True)
            sums = [self._train_in_microbatches(count, *batch, np.float32(mixing)) for batch in batches]
            return functools.reduce(jnp.add, sums)
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
        scale, batch = self._prepare_batch(optimizing, images, labels, step, mixing)
        gradients, others, sums = self._gradients(trainable, others, scale, None, *batch)
        return self._updated_state(state, gradients, others, rate), sums

    def _train_in_microbatches(
        self, count: int, images: Tensor, labels: Tensor, step: Tensor, rate: Tensor, mixing: Tensor
    ) -> Tensor:
        """Train on a batch in `count` microbatches, and return its sums."""
        cores = self._cores[: max(number for number in range(1, len(self._cores) + 1) if count % number == 0)]
        mesh = Mesh(np.asarray(cores), ("cores",))
        trainable, others, optimizing = self._state
        scale, parts = self._prepare(count, optimizing, images, labels, step, mixing)
        shared = jax.device_put((trainable, others, scale), NamedSharding(mesh, PartitionSpec()))
        # By way of NumPy, which copies nothing here: to slice an array of JAX is one more computation to compile.
        parts = jax.device_put([np.asarray(values) for values in parts], NamedSharding(mesh, PartitionSpec("cores")))
        by_core = self._sums_by_core(mesh, shared, parts)
        self._state, sums = self._update(self._state, *jax.device_put(by_core, self._whole), rate)
        return sums

    def _prepare_batch(
        self, optimizing: list[Tensor], images: Tensor, labels: Tensor, step: Tensor, mixing: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return what the loss is multiplied by; and the augmented images, soft targets and labels."""
        with keras.StatelessScope(state_mapping=list(zip(self._variables[2], optimizing, strict=True))):
            scale = self._computation.optimizer.scale_loss(jnp.float32(1))
        return scale, (*self._computation.augmentation(images, labels, step, mixing), labels)

    def _prepare_microbatches(self, count: int, *arguments: Tensor) -> tuple[Tensor, list[Tensor]]:
        scale, batch = self._prepare_batch(*arguments)
        parts = [jnp.reshape(values, (count, -1, *values.shape[1:])) for values in batch]
        return scale / count, [jnp.arange(count), *parts]

    def _gradients(
        self, trainable: list[Tensor], others: list[Tensor], scale: Tensor, microbatch: Tensor, *batch: Tensor
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return the gradients, the other variables after the batch (or this microbatch of it), and its sums."""

        def loss_of(trainable: list[Tensor]) -> tuple[Tensor, tuple[list[Tensor], Tensor]]:
            mapping = [*zip(self._variables[0], trainable, strict=True), *zip(self._variables[1], others, strict=True)]
            with keras.StatelessScope(state_mapping=mapping) as scope:
                loss, sums = self._computation.loss(microbatch, *batch)
            return loss * scale, ([scope.get_current_value(variable) for variable in self._variables[1]], sums)

        gradients, (others, sums) = jax.grad(loss_of, has_aux=True)(trainable)
        return self._computation.optimizer.flatten(gradients), others, sums

    def _add_microbatches(
        self, mesh: Mesh, shared: tuple[list[Tensor], list[Tensor], Tensor], parts: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Return what `_gradients` does, added over the microbatches of each core: (cores, ...)."""
        spec = PartitionSpec("cores")

        @functools.partial(jax.shard_map, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, check_vma=False)
        def add_own(shared: tuple[list[Tensor], list[Tensor], Tensor], parts: list[Tensor]) -> Tensor:
            def add(totals: Tensor, part: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
                gradients, others, sums = self._gradients(*shared, *part)
                return jax.tree.map(jnp.add, totals, (gradients, sums)), others

            zeros = self._computation.optimizer.flatten([jnp.zeros_like(variable) for variable in shared[0]])
            (gradients, sums), others = jax.lax.scan(add, (zeros, jnp.zeros(len(SUMS))), parts)
            return jax.tree.map(lambda value: value[None], (gradients, [values[0] for values in others], sums))

        results: tuple[list[Tensor], list[Tensor], Tensor] = add_own(shared, parts)
        return results

    def _update_by_cores(
        self, state: JaxState, gradients: list[Tensor], others: list[Tensor], sums: Tensor, rate: Tensor
    ) -> tuple[JaxState, Tensor]:
        total = [jnp.sum(values, axis=0) for values in gradients]
        return self._updated_state(state, total, [values[0] for values in others], rate), jnp.sum(sums, axis=0)

    def _updated_state(self, state: JaxState, gradients: list[Tensor], others: list[Tensor], rate: Tensor) -> JaxState:
        """Return the variables after an update by the gradients of the optimizer's vectors."""
        mapping = [*zip(self._variables[0], state[0], strict=True), *zip(self._variables[2], state[2], strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            self._computation.optimizer.copy_from_variables()  # the state has the variables alone
            self._computation.update(gradients, rate)
            self._computation.optimizer.copy_to_variables()
        trainable = [scope.get_current_value(variable) for variable in self._variables[0]]
        optimizing = [scope.get_current_value(variable) for variable in self._variables[2]]
        return trainable, others, optimizing

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
