"""The training step in PyTorch, eager."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from keras import ops

from tnt_exp.training.train_step import StepComputation


def compile_train_step(work: StepComputation, *, xla: bool, devices: int) -> "TorchStep":
    """An eager step; XLA is not PyTorch's, and `rules.py` lets it have one device."""
    del xla, devices
    return TorchStep(work)


class TorchStep:
    """See `tnt_exp.training.train_step.TrainStep`; variables are always up to date."""

    def __init__(self, work: StepComputation) -> None:
        self._work = work

    def __call__(self, images: Any, labels: Any, first: int, rates: Sequence[float], mixing: float) -> Any:
        """Make the updates of a chunk."""
        images, labels = ops.convert_to_tensor(np.asarray(images)), ops.convert_to_tensor(np.asarray(labels))
        return sum(self._one(images[k], labels[k], first + k, rate, mixing) for k, rate in enumerate(rates))

    def _one(self, images: Any, labels: Any, step: int, rate: float, mixing: float) -> Any:
        variables, optimizer = self._work.network.trainable_variables, self._work.optimizer
        for variable in variables:
            variable.value.grad = None
        loss, sums = self._work.forward(images, labels, step, mixing)
        optimizer.scale_loss(loss).backward()
        with torch.no_grad():
            self._work.update(optimizer.joined([variable.value.grad for variable in variables]), rate)
            optimizer.scatter()
        return sums.detach()

    def pull(self) -> None:
        """Nothing to do."""

    def push(self) -> None:
        """The optimizer takes over what was assigned."""
        self._work.optimizer.gather()
