"""One compiled training step: augmentation, network, loss, gradients, update; the same on every backend.

A step receives a chunk of k batches and makes k updates in one call of the device. It returns sums over the chunk that
stay on the device, so that the host waits for the device only when it reads them.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tnt_exp.augmentation.pipeline import Augmentation
from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.data import Batches
from tnt_exp.data.dataset import Split
from tnt_exp.training.optimizer import FlatOptimizer

# The sums that a step returns, in this order.
SUMS = ("loss", "correct", "top5_correct", "images", "finite")  # finite: images of batches with a finite loss

_MAX_BYTES = 2**31  # of images on the device; every GPU that trains has room for so much


class TrainStep(ABC):
    """A compiled training step; each backend has its own."""

    def __init__(self, computation: "StepComputation") -> None:
        self._computation = computation

    @abstractmethod
    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """Make k updates.

        Args:
            images: uint8 (k, B, H, W, C).
            labels: int32 (k, B).
            first: Number of the first step, from 0; with the seed it determines all randomness.
            rates: Learning rate of each of the k steps.
            mixing: Multiplies the probability of mixing images, in [0, 1].

        Returns:
            float32 (5,): `SUMS` over the chunk, on the device.
        """

    def sync_to_model(self) -> None:
        """Update the variables of network and optimizer, before anything reads them."""
        self._computation.optimizer.copy_to_variables()

    def sync_from_model(self) -> None:
        """Take over the values of variables that were assigned from outside."""
        self._computation.optimizer.copy_from_variables()


@dataclass(frozen=True)
class StepComputation:
    """What one step computes, on any backend."""

    network: keras.Model  # normalised float images -> logits
    augmentation: Augmentation  # uint8 images and labels -> normalised images and soft targets
    optimizer: FlatOptimizer  # built for the network's trainable variables
    class_weights: np.ndarray | None = None  # float32 (classes,): multiply the targets; None: all are 1

    def loss(self, microbatch: Tensor, inputs: Tensor, targets: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss and `SUMS` (5,) of augmented images: the batch, or the microbatch of this number."""
        logits = ops.cast(self.network(inputs, training=True, microbatch=microbatch), "float32")
        if self.class_weights is not None:
            targets = targets * ops.convert_to_tensor(self.class_weights)
        loss = -ops.mean(ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1))
        classes = logits.shape[-1]
        own = ops.sum(logits * ops.one_hot(labels, classes, dtype="float32"), axis=-1, keepdims=True)
        # As in `evaluate`: of equal scores the first class counts, and without finite scores every class is wrong.
        ahead = (logits > own) | ((logits == own) & (ops.arange(classes) < ops.expand_dims(labels, -1)))
        rank = ops.where(ops.all(ops.isfinite(logits), axis=-1), ops.sum(ops.cast(ahead, "int32"), axis=-1), classes)
        count = float(logits.shape[0])
        correct = ops.sum(ops.cast(rank < 1, "float32"))
        top5 = ops.sum(ops.cast(rank < min(5, classes), "float32"))
        finite = count * ops.cast(ops.isfinite(loss), "float32")
        return loss, ops.stack([loss * count, correct, top5, ops.full_like(loss, count), finite])

    def update(self, gradients: Sequence[Tensor], rate: Tensor) -> None:
        """Apply the gradients (of the optimizer's vectors) at a learning rate."""
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply(gradients)


def compile_train_step(computation: StepComputation, *, xla: bool, devices: int = 1) -> TrainStep:
    """Return the compiled step of the current backend; each batch is divided among `devices`, of all processes."""
    computation.optimizer.copy_from_variables()  # weights may have been loaded since it was built
    module = importlib.import_module(f"tnt_exp.training.backends.{keras.config.backend()}")
    step: TrainStep = module.compile_train_step(computation, xla=xla, devices=devices)
    return step


class DeviceBatches(Batches):
    """`Batches` whose images, which must fit, are copied to the device once; a chunk is gathered there, by position."""

    def __init__(self, split: Split, *arguments: Any, **options: Any) -> None:
        super().__init__(split, *arguments, **options)
        self._images = ops.convert_to_tensor(split.images)

    @staticmethod
    def fits(split: Split) -> bool:
        """Whether the images are in memory, and few enough for that of a device."""
        return isinstance(split.images, np.ndarray) and split.images.nbytes <= _MAX_BYTES

    def chunks(self, epoch: int, start_step: int, steps: int) -> Iterator[tuple[Tensor, np.ndarray]]:
        """See `Batches`; the images are on the device."""
        for chosen in self.chunk_positions(epoch, start_step, steps):
            positions = np.repeat(chosen, self.repeats).reshape(-1, self.batch_size).astype(np.int32)
            yield ops.take(self._images, positions, axis=0), self.split.labels[positions]
