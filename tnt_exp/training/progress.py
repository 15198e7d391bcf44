"""Progress of a run on the terminal."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tnt_exp.formatting import format_duration

log = logging.getLogger("tnt_exp")


class ProgressBar:
    """A bar with step, rate and time left on a terminal, and one plain line per epoch everywhere.

    It is `warm` once the process has made its first step.
    """

    def __init__(self, epochs: int, steps: int) -> None:
        self._epochs = epochs
        self._begin = time.perf_counter()
        self._epochs_done = 0
        self.warm = False
        self._bar: Bar | None = None
        if sys.stdout.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:>8,.0f} images/s"),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(),
                transient=True,
            )
            self._task = self._bar.add_task("compiling", total=steps, rate=0.0)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def on_step(self, epoch: int, done: int, of: int, images: int) -> None:
        """`done` of an epoch's `of` steps, of `images` images each, were passed to the device."""
        if not self._bar:
            return
        task = self._bar.tasks[0]
        rate = (task.speed or 0.0) * images
        self._bar.update(
            self._task, completed=(epoch - 1) * of + done, rate=rate, description=f"epoch {epoch}/{self._epochs}"
        )

    def on_epoch_end(self, number: int, metrics: dict[str, float]) -> None:
        """Print the epoch's line."""
        parts = [f"epoch {number:>{len(str(self._epochs))}}/{self._epochs}"]
        parts += [f"loss {metrics['train/loss']:.4f}  accuracy {metrics['train/accuracy']:.4f}"]
        if "val/loss" in metrics:
            parts += [f"val loss {metrics['val/loss']:.4f}  accuracy {metrics['val/accuracy']:.4f}"]
        parts += [f"lr {metrics['train/learning_rate']:.2e}", f"{metrics['train/images_per_second']:,.0f} images/s"]
        self._epochs_done += 1  # by this process
        elapsed = time.perf_counter() - self._begin
        parts += [f"left {format_duration(elapsed / self._epochs_done * (self._epochs - number))}"]
        line = " | ".join(parts)
        if self._bar:
            self._bar.console.print(line, highlight=False, soft_wrap=True)
            log.debug(line)
        else:
            log.info(line)
