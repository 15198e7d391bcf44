"""The loop over epochs."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tnt_exp.data.batches import Batches
from tnt_exp.training.checkpoint import NonFiniteError
from tnt_exp.training.progress import ProgressBar
from tnt_exp.training.train_state import Position
from tnt_exp.training.train_step import SUMS, TrainStep

Chunk = TypeVar("Chunk")

_CHECK_SECONDS = 5.0  # seconds between two looks at the loss: each waits for the device


@dataclass(frozen=True)
class EpochResult:
    """What one pass over the training images gave.

    Attributes:
        number: From 1.
        step: Training steps since the beginning of the run.
        metrics: `train/...`; `train/waiting` is the part of the time in which the loop waited for images.
        seconds: Time of the epoch's steps.
        first_step_seconds: Time of the process' first call of the device, in the epoch that had it.
    """

    number: int
    step: int
    metrics: dict[str, float]
    seconds: float
    first_step_seconds: float | None


@dataclass(frozen=True)
class Trainer:
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

    step: TrainStep
    batches: Batches
    rate: Callable[[int], float]
    epochs: int
    mix_off_epochs: int
    steps_per_dispatch: int
    progress: ProgressBar
    position: Position
    pause: Callable[[int], bool]
    keep: Callable[[int], None]

    def __iter__(self) -> Iterator[EpochResult]:
        """Yield after each epoch, with the step's variables up to date and the position at the next epoch.

        Raises:
            NonFiniteError: Names the step, the epoch and the learning rate.
        """
        while self.position.epoch <= self.epochs:
            yield self._epoch(self.position)

    def _epoch(self, position: Position) -> EpochResult:
        number, length = position.epoch, self.batches.steps_per_epoch
        # Equal chunks, because each length of a chunk is compiled apart.
        size = math.ceil(length / math.ceil(length / min(self.steps_per_dispatch, self.batches.most_steps)))
        mixing = 0.0 if number > self.epochs - self.mix_off_epochs else 1.0
        begin, compiling_seconds, compiling_steps = time.perf_counter(), 0.0, 0
        on_device: list[tuple[int, Any]] = []
        looked = begin
        waiting, before = InputTimer(), position.seconds
        for images, labels in waiting.on(self.batches.chunks(number - 1, position.done, size)):
            first = (number - 1) * length + position.done
            rates = [self.rate(first + index) for index in range(len(images))]
            on_device.append((first, self.step(images, labels, first, rates, mixing)))
            position.done += len(images)
            if not self.progress.warm:
                # The process' first call is mostly tracing and compiling: it says nothing of the rate.
                self._settle(position, on_device)
                self.progress.warm = True
                compiling_seconds, compiling_steps = time.perf_counter() - begin, len(images)
                waiting.seconds = 0.0
            self.progress.step(number, position.done, length, images.shape[1])
            if time.perf_counter() - looked > _CHECK_SECONDS:
                self._settle(position, on_device)
                looked = time.perf_counter()
            if position.done < length and self.pause(first + len(images)):
                self._settle(position, on_device)
                position.seconds += time.perf_counter() - begin
                self.step.pull()
                self.keep(first + len(images))
                begin = time.perf_counter()
        self._settle(position, on_device)
        position.seconds += time.perf_counter() - begin
        totals = dict(zip(SUMS, position.sums, strict=True))
        loss = totals["loss"] / totals["images"]
        last = number * length - 1
        self.step.pull()
        seconds, steps = position.seconds, length
        if length > compiling_steps:
            seconds, steps = seconds - compiling_seconds, length - compiling_steps
        timed = position.seconds - before - compiling_seconds  # by this process, which may have begun in mid-epoch
        epoch = EpochResult(
            number=number,
            step=last + 1,
            metrics={
                "train/loss": loss,
                "train/accuracy": totals["correct"] / totals["images"],
                "train/top5_accuracy": totals["top5_correct"] / totals["images"],
                "train/learning_rate": self.rate(last),
                "train/images_per_second": steps * self.batches.batch_size / seconds,
                "train/waiting": waiting.seconds / max(timed, waiting.seconds, 1e-9),
            },
            seconds=position.seconds,
            first_step_seconds=compiling_seconds or None,
        )
        position.epoch, position.done = number + 1, 0
        position.sums, position.seconds = [0.0] * len(SUMS), 0.0
        return epoch

    def _settle(self, position: Position, on_device: list[tuple[int, Any]]) -> None:
        """Wait for the device and add its sums, one after the other: the order decides the last bit.

        Raises:
            NonFiniteError: A loss is not finite.
        """
        for first, sums in on_device:
            added = [float(part) for part in np.asarray(sums)]
            chunk = dict(zip(SUMS, added, strict=True))
            if not (math.isfinite(chunk["loss"]) and chunk["finite"] == chunk["images"]):
                # What is not finite stays so: the finite steps of a chunk come first.
                step = first + int(chunk["finite"] / self.batches.batch_size)
                raise NonFiniteError(
                    f"the training loss became {chunk['loss']} at step {step + 1} (epoch {position.epoch}), at a "
                    f"learning rate of {self.rate(step):.3g}."
                )
            position.sums = [total + part for total, part in zip(position.sums, added, strict=True)]
        on_device.clear()


class InputTimer:
    """Measures how long a reader waits for what it reads.

    Attributes:
        seconds: So far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def on(self, items: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield the items."""
        begin = time.perf_counter()
        for item in items:
            self.seconds += time.perf_counter() - begin
            yield item
            begin = time.perf_counter()
