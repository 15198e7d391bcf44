"""When checkpoints are written, and how a run resumes from them or rolls back to them."""

import logging
import time
from pathlib import Path

from tnt_exp.atomic_files import JsonObject
from tnt_exp.config.trainer import OnNan, TrainerConfig
from tnt_exp.errors import UserError
from tnt_exp.signals import Signals, Stopped
from tnt_exp.training.checkpoint import CheckpointStore, NonFiniteError
from tnt_exp.training.distributed import Votes, end_together, on_process_0
from tnt_exp.training.train_state import TrainState

log = logging.getLogger("tnt_exp")

_ADVICE = "Try a lower optimizer.learning_rate, a longer schedule.warmup_epochs or optimizer.clip_norm=1."


class CheckpointManager:
    """Writes checkpoints by time, by steps, and when a signal asks the run to stop.

    A checkpoint holds the state and the `extra` values (JSON): the digest of the data, the result so far.
    """

    def __init__(
        self,
        state: TrainState,
        folder: Path,
        config: TrainerConfig,
        steps_per_epoch: int,
        signals: Signals,
        extra: JsonObject,
    ) -> None:
        self._state = state
        self._config = config
        # A rollback goes to the end of an epoch: when other checkpoints are written depends on time and signals, so
        # that two equal runs would not go back to the same one.
        self._rollback_period = steps_per_epoch if config.on_nan is OnNan.rollback else None
        self._store = CheckpointStore(folder, config.checkpoint.keep, self._rollback_period)
        self._signals = signals
        self._extra = extra
        self._votes, self._agreed = Votes(), 0  # 1: a checkpoint by time, else a signal
        self._last_time, self._last_step = time.monotonic(), 0

    def resume(self) -> JsonObject | None:
        """Restore the newest checkpoint that verifies; return its values, or None if there is none.

        Raises:
            UserError: It is of other data, or another process has other data.
            ValueError: It is of another network.
        """
        digest = on_process_0(lambda: self._extra["dataset"])()
        if self._votes.vote(int(digest != self._extra["dataset"]), wait=True):
            end_together()
            raise UserError(
                f"trainer.distributed=auto: expected the data of process 0 (digest {digest}) in all processes, "
                f"received others in one at least (digest {self._extra['dataset']} here). Give all the same files."
            )
        found = self._store.newest()
        if found is None:
            if self._rollback_period:
                self._store.save(self._state.to_checkpoint(0, self._extra))
            return None
        if found.values["dataset"] != self._extra["dataset"]:
            end_together()
            raise UserError(
                f"Expected the data of the checkpoint (digest {found.values['dataset']}), "
                f"received other data (digest {self._extra['dataset']})."
            )
        self._state.restore(found)
        self._last_step = found.step
        return found.values

    def should_save(self, step: int) -> bool:
        """True if a checkpoint is due after this many steps of the run, where a call of the device has ended."""
        config = self._config.checkpoint
        by_time = time.monotonic() - self._last_time >= 60 * config.every
        self._agreed = self._votes.vote(self._signals.requested or int(by_time))
        return (
            self._agreed > 0
            or (config.steps is not None and step // config.steps > self._last_step // config.steps)
            or (self._rollback_period is not None and step % self._rollback_period == 0)
        )

    def save(self, step: int) -> None:
        """Write the state, in the background.

        Raises:
            NonFiniteError: The state is not finite; nothing is written.
            Stopped: A signal asked to; the state is on the disk.
        """
        self._store.save(self._state.to_checkpoint(step, self._extra))
        self._last_time, self._last_step = time.monotonic(), step
        self._agreed = max(self._agreed, self._votes.read())
        if self._agreed > 1:
            self._store.wait()
            end_together()
            raise Stopped(self._agreed)

    def roll_back(self, error: NonFiniteError) -> None:
        """Restore the last checkpoint at the end of an epoch, and lower the learning rate.

        Raises:
            NonFiniteError: A rollback is not asked for, or not possible; names the last good checkpoint.
        """
        self._store.wait()
        state, config = self._state, self._config
        wanted = config.on_nan is OnNan.rollback and state.rollbacks < config.rollbacks
        found = (self._store.newest(at_period=True) if wanted else None) or self._store.newest()
        if not wanted or found is None:
            end_together()
        if found is None:
            raise NonFiniteError(f"{error} There is no checkpoint yet. {_ADVICE}") from error
        good = f"the last good checkpoint is that of step {found.step}, {self._store.name(found.step)}"
        if not wanted:
            after = f" after {state.rollbacks} rollbacks" if state.rollbacks else ""
            raise NonFiniteError(f"{error} The run stops{after}; {good}. {_ADVICE}") from error
        self._store.delete_after(found.step)
        state.restore(found)
        self._last_step = found.step
        state.rollbacks += 1
        state.rate_scale *= config.rollback_factor
        self._store.save(state.to_checkpoint(found.step, self._extra))
        log.warning("%s Rollback %d: %s; learning rates x %g", error, state.rollbacks, good, state.rate_scale)

    def finish(self) -> None:
        """Wait for the last checkpoint of the run.

        Raises:
            Stopped: A signal asked to.
        """
        self._store.wait()
        number = self._votes.vote(self._signals.requested, wait=True)
        if number > 1:
            end_together()
            raise Stopped(number)
