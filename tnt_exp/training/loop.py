"""The loop over epochs."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tnt_exp.data.batches import Batches
from tnt_exp.training.progress import Progress
from tnt_exp.training.step import SUMS, Step


class NonFiniteLossError(RuntimeError):
    """The loss is infinite or not a number."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave.

    Attributes:
        number: From 1.
        step: Training steps since the beginning of the run.
        metrics: `train/...`
        seconds: Time of the epoch's steps.
        first_step_seconds: Time of the run's first step, in epoch 1.
    """

    number: int
    step: int
    metrics: dict[str, float]
    seconds: float
    first_step_seconds: float | None


@dataclass(frozen=True)
class Loop:
    """Trains epoch by epoch.

    Args:
        step: The compiled step.
        batches: Training images in their order.
        rate: Learning rate of each step.
        epochs: How many.
        mix_off_epochs: Last epochs without mixing.
        steps_per_dispatch: Most steps a call of the device.
        progress: Told of each step.
    """

    step: Step
    batches: Batches
    rate: Callable[[int], float]
    epochs: int
    mix_off_epochs: int
    steps_per_dispatch: int
    progress: Progress

    def __iter__(self) -> Iterator[Epoch]:
        """Yield after each epoch, with the step's variables up to date.

        Raises:
            NonFiniteLossError: Names the epoch, the step and the learning rate.
        """
        for number in range(1, self.epochs + 1):
            yield self._epoch(number)

    def _epoch(self, number: int) -> Epoch:
        length = self.batches.steps_per_epoch
        # Equal chunks, because each length of a chunk is compiled apart.
        size = math.ceil(length / math.ceil(length / self.steps_per_dispatch))
        mixing = 0.0 if number > self.epochs - self.mix_off_epochs else 1.0
        done, first_step_seconds = 0, None
        on_device = []
        begin = time.perf_counter()
        for images, labels in self.batches.chunks(number - 1, 0, size):
            first = (number - 1) * length + done
            rates = [self.rate(first + index) for index in range(len(images))]
            on_device.append(self.step(images, labels, first, rates, mixing))
            done += len(images)
            if first == 0:
                np.asarray(on_device[0])  # waits for the device
                first_step_seconds = time.perf_counter() - begin
            self.progress.step(number, done, length, images.shape[1])
        sums = np.sum([np.asarray(chunk, np.float64) for chunk in on_device], axis=0)
        seconds = time.perf_counter() - begin
        totals = dict(zip(SUMS, sums, strict=True))
        loss = totals["loss"] / totals["images"]
        last = number * length - 1
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"The training loss became {loss} in epoch {number} (steps {last - length + 2} to {last + 1}) "
                f"at a learning rate of {self.rate(last):.3g}. Try a lower optimizer.learning_rate, a longer "
                "schedule.warmup_epochs or optimizer.clip_norm=1."
            )
        self.step.pull()
        # The first step is mostly tracing and compiling: it says nothing of the rate.
        steady_seconds, steady_steps = seconds, length
        if first_step_seconds is not None and length > size:
            steady_seconds, steady_steps = seconds - first_step_seconds, length - size
        return Epoch(
            number=number,
            step=last + 1,
            metrics={
                "train/loss": loss,
                "train/accuracy": totals["correct"] / totals["images"],
                "train/top5_accuracy": totals["top5_correct"] / totals["images"],
                "train/learning_rate": self.rate(last),
                "train/images_per_second": steady_steps * self.batches.batch_size / steady_seconds,
            },
            seconds=seconds,
            first_step_seconds=first_step_seconds,
        )
