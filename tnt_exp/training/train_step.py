"""One compiled training step: augmentation, network, loss, gradient, update; the same on every backend.

A step is handed a chunk of k batches and makes k updates in one call of the device. It returns sums over the chunk
that stay on the device, so that the host waits for it only when it reads them.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
from keras import ops

from tnt_exp.augmentation.pipeline import Augmentation
from tnt_exp.training.flat_optimizer import FlatOptimizer

# What a step sums, in this order.
SUMS = ("loss", "correct", "top5_correct", "images", "finite")  # the last: images of batches with a finite loss


class TrainStep(Protocol):
    """A compiled training step."""

    def __call__(self, images: Any, labels: Any, first: int, rates: Sequence[float], mixing: float) -> Any:
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
        ...

    def pull(self) -> None:
        """Bring the variables of network and optimizer up to date, before they are read."""
        ...

    def push(self) -> None:
        """Take over variables that were assigned from outside."""
        ...


@dataclass(frozen=True)
class StepComputation:
    """What one step does, whatever the backend.

    Attributes:
        network: Normalised float images -> logits.
        augmentation: From uint8 images and labels to normalised images and soft targets.
        optimizer: Of the network's trainable variables.
    """

    network: Any
    augmentation: Augmentation
    optimizer: FlatOptimizer

    def forward(self, images: Any, labels: Any, step: Any, mixing: Any) -> tuple[Any, Any]:
        """The mean loss (scalar) and `SUMS` (5,) of one batch."""
        return self.loss(None, *self.augmentation(images, labels, step, mixing), labels)

    def loss(self, part: Any, inputs: Any, targets: Any, labels: Any) -> tuple[Any, Any]:
        """The same of what augmentation gave: of a batch (`part` None), or of the part of it with this number."""
        logits = ops.cast(self.network(inputs, training=True, part=part), "float32")
        loss = -ops.mean(ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1))
        own = ops.sum(logits * ops.one_hot(labels, logits.shape[-1], dtype="float32"), axis=-1, keepdims=True)
        rank = ops.sum(ops.cast(logits > own, "float32"), axis=-1)
        count = float(logits.shape[0])
        correct = ops.sum(ops.cast(rank < 1, "float32"))
        top5 = ops.sum(ops.cast(rank < 5, "float32"))
        finite = count * ops.cast(ops.isfinite(loss), "float32")
        return loss, ops.stack([loss * count, correct, top5, ops.full_like(loss, count), finite])

    def update(self, slopes: Sequence[Any], rate: Any) -> None:
        """Move the optimizer's vectors by the gradients to them."""
        self.optimizer.rate.assign(rate)
        self.optimizer.apply(slopes)


def compile_train_step(work: StepComputation, *, xla: bool, devices: int = 1) -> TrainStep:
    """The step for the backend that runs, each batch shared among so many devices."""
    work.optimizer.gather()  # what was loaded since it was built
    module = importlib.import_module(f"tnt_exp.training.backends.{keras.config.backend()}")
    step: TrainStep = module.compile_step(work, xla=xla, devices=devices)
    return step
