"""The training step in PyTorch, eager."""

from collections.abc import Sequence

import torch
from keras import ops

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.training.train_step import StepComputation, TrainStep


def compile_train_step(computation: StepComputation, *, xla: bool, devices: int) -> "TorchStep":
    """Return an eager step; XLA does not apply, and `config.validation` allows one device."""
    return TorchStep(computation)


class TorchStep(TrainStep):
    """See `TrainStep`."""

    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """See `TrainStep`."""
        images, labels = ops.convert_to_tensor(images), ops.convert_to_tensor(labels)
        return sum(self._train_step(images[k], labels[k], first + k, rate, mixing) for k, rate in enumerate(rates))

    def _train_step(self, images: Tensor, labels: Tensor, step: int, rate: float, mixing: float) -> Tensor:
        variables, optimizer = self._computation.network.trainable_variables, self._computation.optimizer
        for variable in variables:
            variable.value.grad = None
        inputs, targets = self._computation.augmentation(images, labels, step, mixing)
        loss, sums = self._computation.loss(None, inputs, targets, labels)
        optimizer.scale_loss(loss).backward()
        with torch.no_grad():
            self._computation.update(optimizer.flatten([variable.value.grad for variable in variables]), rate)
            self.sync_to_model()
        return sums.detach()
