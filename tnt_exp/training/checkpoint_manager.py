"""When the state of a run is written, and how a run goes on from it."""

import logging
import time
from pathlib import Path
from typing import Any

from tnt_exp.config.trainer import OnNan, TrainerConfig
from tnt_exp.signals import Signals
from tnt_exp.training.checkpoint import CheckpointStore, NonFiniteError
from tnt_exp.training.train_state import TrainState

log = logging.getLogger("tnt_exp")

_ADVICE = "Try a lower optimizer.learning_rate, a longer schedule.warmup_epochs or optimizer.clip_norm=1."


class CheckpointManager:
    """Writes checkpoints by time, by steps, and when a signal asks the run to stop.

    Args:
        state: What is written.
        folder: Where.
        config: How often, how many, and whether to go back to one.
        epoch_steps: Steps of an epoch.
        signals: Requests to stop.
        about: Further numbers for each checkpoint: which data, what is known of the result.
    """

    def __init__(
        self,
        state: TrainState,
        folder: Path,
        config: TrainerConfig,
        epoch_steps: int,
        signals: Signals,
        about: dict[str, Any],
    ) -> None:
        self._state = state
        self._config = config
        # When others are written depends on time and signals: to go back to them would not be the same twice.
        self._landmarks = epoch_steps if config.on_nan is OnNan.rollback else None
        self._checkpoints = CheckpointStore(folder, config.checkpoint.keep, self._landmarks)
        self._signals = signals
        self._about = about
        self._last_time = time.monotonic()

    def resume(self) -> dict[str, Any] | None:
        """Take over the newest checkpoint that verifies; what was said about it, or None where there is none."""
        found = self._checkpoints.newest()
        if found is None:
            if self._landmarks:
                self._checkpoints.save(self._state.checkpoint(0, self._about))
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
        config = self._config.checkpoint
        return (
            self._signals.requested
            or any(steps is not None and step % steps == 0 for steps in (config.steps, self._landmarks))
            or time.monotonic() - self._last_time >= 60 * config.every
        )

    def keep(self, step: int) -> None:
        """Write the state.

        Raises:
            NonFiniteError: The state is nothing to go on from; nothing is written.
            Stopped: A signal asked to; the state is on the disk.
        """
        self._checkpoints.save(self._state.checkpoint(step, self._about))
        self._last_time = time.monotonic()
        if self._signals.requested:
            self.finish()
            self._signals.raise_if_requested()

    def roll_back(self, error: NonFiniteError) -> None:
        """Take over the last checkpoint between two epochs, with a lower learning rate.

        Args:
            error: Why.

        Raises:
            NonFiniteError: That is not asked for, or not possible; names the last good checkpoint.
        """
        self.finish()
        state, config = self._state, self._config
        wanted = config.on_nan is OnNan.rollback and state.rollbacks < config.rollbacks
        found = (self._checkpoints.newest(landmark=True) if wanted else None) or self._checkpoints.newest()
        if found is None:
            raise NonFiniteError(f"{error} There is no checkpoint yet. {_ADVICE}") from error
        good = f"the last good checkpoint is that of step {found.step}, {self._checkpoints.name(found.step)}"
        if not wanted:
            after = f" after {state.rollbacks} rollbacks" if state.rollbacks else ""
            raise NonFiniteError(f"{error} The run stops{after}; {good}. {_ADVICE}") from error
        self._checkpoints.drop_after(found.step)
        state.restore(found)
        state.rollbacks += 1
        state.rate_scale *= config.rollback_factor
        self._checkpoints.save(state.checkpoint(found.step, self._about))
        log.warning("%s Rollback %d: %s; learning rates x %g", error, state.rollbacks, good, state.rate_scale)

    def finish(self) -> None:
        """Until the last checkpoint is on the disk."""
        self._checkpoints.wait()
