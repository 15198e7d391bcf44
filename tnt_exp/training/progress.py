"""Progress of a run on the terminal."""

import logging
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from tnt_exp.formatting import format_duration

log = logging.getLogger("tnt_exp")


class ProgressBar:
    """A bar with step, rate and time left on a terminal, and one plain line per epoch everywhere.

    Where there is no terminal, an epoch that takes long has a line per minute.

    It is `warm` once the process has made its first step. The time left is estimated from the steps after that one, and
    from the second epoch on from whole epochs, because the first ones compile.
    """

    def __init__(self, epochs: int, steps: int) -> None:
        self._epochs, self._steps = epochs, steps
        self._ends: list[float] = []  # of the epochs of this process
        self._first: tuple[float, int] | None = None  # when the first chunk had ended, and the steps until then
        self._last = 0.0  # when the last one had
        self._printed = time.perf_counter()  # when the last plain line was, or the begin
        self.warm = False
        self._bar: Bar | None = None
        if sys.stdout.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:>8,.0f} images/s"),
                TextColumn("left {task.fields[left]}"),
                console=Console(),
                transient=True,
            )
            self._task = self._bar.add_task("compiling", total=steps, rate=0.0, left="?")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def on_step(self, epoch: int, done: int, of: int, images: int) -> None:
        """`done` of an epoch's `of` steps, of `images` images each, were passed to the device."""
        made = (epoch - 1) * of + done
        self._last = time.perf_counter()
        self._first = self._first or (self._last, made)
        left = self.left(made)
        if self._bar:
            rate = (self._bar.tasks[0].speed or 0.0) * images
            shown = "?" if left is None else format_duration(left)
            self._bar.update(
                self._task, completed=made, rate=rate, description=f"epoch {epoch}/{self._epochs}", left=shown
            )
        elif done < of and self._last - self._printed > 60:
            self._printed = self._last
            shown = "" if left is None else f" | left {format_duration(left)}"
            log.info("epoch %*d/%d | step %d/%d%s", len(str(self._epochs)), epoch, self._epochs, done, of, shown)

    def left(self, made: int) -> float | None:
        """Return the estimated seconds left after so many steps of the run; None: not known yet."""
        if len(self._ends) > 1:
            recent = [end - begin for begin, end in pairwise(self._ends[-10:])]
            return median(recent) * self._epochs * (1 - made / self._steps)
        if self._first is None or made <= self._first[1]:
            return None
        return (self._last - self._first[0]) / (made - self._first[1]) * (self._steps - made)

    def on_epoch_end(self, number: int, metrics: dict[str, float]) -> None:
        """Print the epoch's line."""
        parts = [f"epoch {number:>{len(str(self._epochs))}}/{self._epochs}"]
        parts += [f"loss {metrics['train/loss']:.4f}  accuracy {metrics['train/accuracy']:.4f}"]
        if "val/loss" in metrics:
            parts += [f"val loss {metrics['val/loss']:.4f}  accuracy {metrics['val/accuracy']:.4f}"]
        parts += [f"lr {metrics['train/learning_rate']:.2e}", f"{metrics['train/images_per_second']:,.0f} images/s"]
        self._printed = time.perf_counter()
        self._ends.append(self._printed)
        left = self.left(number * self._steps // self._epochs)
        parts += [f"left {format_duration(left)}"] if left is not None else []
        line = " | ".join(parts)
        if self._bar:
            self._bar.console.print(line, highlight=False, soft_wrap=True)
            log.debug(line)
        else:
            log.info(line)
