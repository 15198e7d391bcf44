"""The loop over epochs."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tnt_exp.data.batches import Batches
from tnt_exp.training.progress import Progress
from tnt_exp.training.state import Position
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
        first_step_seconds: Time of the process' first call of the device, in the epoch that had it.
    """

    number: int
    step: int
    metrics: dict[str, float]
    seconds: float
    first_step_seconds: float | None


@dataclass(frozen=True)
class Loop:
    """Trains epoch by epoch, from wherever its position is.

    Args:
        step: The compiled step.
        batches: Training images in their order.
        rate: Learning rate of each step.
        epochs: How many.
        mix_off_epochs: Last epochs without mixing.
        steps_per_dispatch: Most steps a call of the device.
        progress: Told of each step.
        position: Where to begin; kept up to date.
        pause: Asked after each call of the device, with the number of steps made: whether to call `keep`.
        keep: Called between two steps with the variables and the position up to date; may raise to stop.
    """

    step: Step
    batches: Batches
    rate: Callable[[int], float]
    epochs: int
    mix_off_epochs: int
    steps_per_dispatch: int
    progress: Progress
    position: Position
    pause: Callable[[int], bool]
    keep: Callable[[int], None]

    def __iter__(self) -> Iterator[Epoch]:
        """Yield after each epoch, with the step's variables up to date and the position at the next epoch.

        Raises:
            NonFiniteLossError: Names the epoch, the step and the learning rate.
        """
        while self.position.epoch <= self.epochs:
            yield self._epoch(self.position)

    def _epoch(self, position: Position) -> Epoch:
        number, length = position.epoch, self.batches.steps_per_epoch
        # Equal chunks, because each length of a chunk is compiled apart.
        size = math.ceil(length / math.ceil(length / self.steps_per_dispatch))
        mixing = 0.0 if number > self.epochs - self.mix_off_epochs else 1.0
        begin, compiling_seconds, compiling_steps = time.perf_counter(), 0.0, 0
        on_device: list[Any] = []
        for images, labels in self.batches.chunks(number - 1, position.done, size):
            first = (number - 1) * length + position.done
            rates = [self.rate(first + index) for index in range(len(images))]
            on_device.append(self.step(images, labels, first, rates, mixing))
            position.done += len(images)
            if not self.progress.warm:
                # The process' first call is mostly tracing and compiling: it says nothing of the rate.
                _settle(position, on_device)
                self.progress.warm = True
                compiling_seconds, compiling_steps = time.perf_counter() - begin, len(images)
            self.progress.step(number, position.done, length, images.shape[1])
            if position.done < length and self.pause(first + len(images)):
                _settle(position, on_device)
                position.seconds += time.perf_counter() - begin
                self.step.pull()
                self.keep(first + len(images))
                begin = time.perf_counter()
        _settle(position, on_device)
        position.seconds += time.perf_counter() - begin
        totals = dict(zip(SUMS, position.sums, strict=True))
        loss = totals["loss"] / totals["images"]
        last = number * length - 1
        if not math.isfinite(loss):
            raise NonFiniteLossError(
                f"The training loss became {loss} in epoch {number} (steps {last - length + 2} to {last + 1}) "
                f"at a learning rate of {self.rate(last):.3g}. Try a lower optimizer.learning_rate, a longer "
                "schedule.warmup_epochs or optimizer.clip_norm=1."
            )
        self.step.pull()
        seconds, steps = position.seconds, length
        if length > compiling_steps:
            seconds, steps = seconds - compiling_seconds, length - compiling_steps
        epoch = Epoch(
            number=number,
            step=last + 1,
            metrics={
                "train/loss": loss,
                "train/accuracy": totals["correct"] / totals["images"],
                "train/top5_accuracy": totals["top5_correct"] / totals["images"],
                "train/learning_rate": self.rate(last),
                "train/images_per_second": steps * self.batches.batch_size / seconds,
            },
            seconds=position.seconds,
            first_step_seconds=compiling_seconds or None,
        )
        position.epoch, position.done = number + 1, 0
        position.sums, position.seconds = [0.0] * len(SUMS), 0.0
        return epoch


def _settle(position: Position, on_device: list[Any]) -> None:
    """Wait for the device and add its sums, one after the other: the order decides the last bit."""
    for sums in on_device:
        position.sums = [total + float(part) for total, part in zip(position.sums, np.asarray(sums), strict=True)]
    on_device.clear()
