"""When the state of a run is written, and how a run goes on from it."""

import logging
import time
from pathlib import Path
from typing import Any

from tnt_exp.config.trainer import CheckpointConfig
from tnt_exp.signals import Signals
from tnt_exp.training.checkpoint import Checkpoints
from tnt_exp.training.state import State

log = logging.getLogger("tnt_exp")


class Keeper:
    """Writes checkpoints by time, by steps, and when a signal asks the run to stop.

    Args:
        state: What is written.
        folder: Where.
        config: How often, how many.
        signals: Requests to stop.
        about: Further numbers for each checkpoint: which data, what is known of the result.
    """

    def __init__(
        self, state: State, folder: Path, config: CheckpointConfig, signals: Signals, about: dict[str, Any]
    ) -> None:
        self._state = state
        self._config = config
        self._checkpoints = Checkpoints(folder, config.keep)
        self._signals = signals
        self._about = about
        self._last_time = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """Take over the newest checkpoint that verifies; what was said about it, or None where there is none."""
        found = self._checkpoints.newest()
        if found is None:
            return None
        if found.numbers["dataset"] != self._about["dataset"]:
            raise ValueError(
                f"Expected the data of the checkpoint (digest {found.numbers['dataset']}), "
                f"received other data (digest {self._about['dataset']})."
            )
        self._state.restore(found)
        return found.numbers

    def due(self, step: int) -> bool:
        """Whether to call `keep` after this many steps of the run."""
        steps = self._config.steps
        return (
            self._signals.requested
            or (steps is not None and step % steps == 0)
            or time.monotonic() - self._last_time >= 60 * self._config.every
        )

    def keep(self, step: int) -> None:
        """Write the state.

        Raises:
            Stopped: A signal asked to; the state is on the disk.
        """
        self._checkpoints.save(self._state.checkpoint(step, self._about))
        self._last_time = time.monotonic()
        if self._signals.requested:
            self.finish()
            self._signals.raise_if_requested()

    def finish(self) -> None:
        """Until the last checkpoint is on the disk."""
        self._checkpoints.wait()
