"""Train a classifier on a data set: one loop over epochs, with validation, checkpoints and rollback inside.

    best = Trainer(config, classifier, dataset, device, folder, signals, result).fit()

A run folder that holds checkpoints is continued from the newest one that verifies, and ends with the same bits as a
run that was never stopped (same backend, same machine).
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median_high
from typing import Any, TypeVar

from keras import ops

from tnt_exp.atomic_files import JsonObject
from tnt_exp.augmentation import Augmentation
from tnt_exp.config import Config
from tnt_exp.data import Batches, Dataset
from tnt_exp.evaluation import evaluate
from tnt_exp.model import Classifier, is_decayed, layer_depth
from tnt_exp.run_folder import TIME_COLUMNS, RunFolder, read_metrics
from tnt_exp.signals import Signals
from tnt_exp.training.checkpoint import NonFiniteError
from tnt_exp.training.checkpoint_manager import CheckpointManager
from tnt_exp.training.device import Device
from tnt_exp.training.distributed import on_process_0, process_count, process_index
from tnt_exp.training.optimizer import LearningRateSchedule, build_optimizer, ema_weights
from tnt_exp.training.profiler import ProfiledStep
from tnt_exp.training.progress import ProgressBar
from tnt_exp.training.train_state import BestWeights, Position, TrainState
from tnt_exp.training.train_step import SUMS, DeviceBatches, StepComputation, TrainStep, compile_train_step

log = logging.getLogger("tnt_exp")

Item = TypeVar("Item")

_MAX_PENDING = 3  # calls of the device before the first of them must have ended: each holds a chunk's images


@dataclass(frozen=True)
class EpochResult:
    """What one pass over the training images gave."""

    number: int  # of the epoch, from 1
    step: int  # training steps since the beginning of the run
    metrics: dict[str, float]  # `train/...`; `waiting`: the fraction of the time in which the loop waited for images
    seconds: float  # time of the epoch's steps


class Trainer:
    """Trains a classifier; `fit` does it.

    Args:
        classifier: Built, with the weights to start from.
        folder: Where checkpoints and `metrics.csv` go, and where a run is continued from.
        result: What `result.json` will hold; speed and times are added to it.
    """

    def __init__(
        self,
        config: Config,
        classifier: Classifier,
        dataset: Dataset,
        device: Device,
        folder: RunFolder,
        signals: Signals,
        result: JsonObject,
    ) -> None:
        self.config, self.classifier, self.dataset, self.device = config, classifier, dataset, device
        self.folder, self.signals, self.result = folder, signals, result
        self._recorded: dict[str, dict[str, str]] = {}  # rows of epochs that are repeated, by epoch

        # ---- Input
        trainer = config.trainer
        on_device = device.kind == "gpu" and device.count == 1 and DeviceBatches.fits(dataset.train)
        batches = DeviceBatches if on_device else Batches
        repeats, steps = config.augmentation.repeats, trainer.steps_per_epoch
        part, parts = process_index(), process_count()
        self.batches = batches(dataset.train, trainer.batch_size, config.seed, repeats, steps, part=part, parts=parts)
        self.augmentation = Augmentation(
            config.augmentation,
            image_size=config.model.image_size,
            mean=config.model.mean,
            std=config.model.std,
            num_classes=dataset.num_classes,
            label_smoothing=trainer.label_smoothing,
            seed=config.seed,
            branching=device.kind == "cpu",
        )
        # ---- Optimizer
        self.optimizer = build_optimizer(
            config.optimizer,
            classifier.trainable_variables,
            is_decayed,
            learning_rate_factors=self._learning_rate_factors(),
            scale_loss=device.precision == "mixed_float16",
        )
        self.schedule = LearningRateSchedule(
            config.schedule, config.optimizer.learning_rate, self.batches.steps_per_epoch, trainer.epochs
        )
        # ---- State and checkpoints
        self.state = TrainState(
            classifier, self.optimizer, BestWeights(trainer.select, trainer.patience, trainer.monitor)
        )
        self.checkpoints = CheckpointManager(
            self.state,
            folder.checkpoints,
            trainer,
            self.batches.steps_per_epoch,
            signals,
            extra={"dataset": dataset.digest, "result": result},
        )

    def fit(self) -> BestWeights:
        """Train to the last epoch, or until no epoch has been better for `trainer.patience` epochs.

        Returns the chosen epoch; the classifier has its weights.

        Raises:
            Stopped: A signal asked to; the state is on the disk.
            NonFiniteError: The loss or a weight is not finite, and there is nothing to go back to.
            ValueError: The checkpoint in the run folder is of other data or of another network.
        """
        state, epochs, checkpoints = self.state, self.config.trainer.epochs, self.checkpoints
        patience, accumulation = self.config.trainer.patience, self.config.optimizer.accumulation
        if left := epochs * self.batches.steps_per_epoch % accumulation:
            log.warning("optimizer.accumulation=%d: the last %d batches make no update", accumulation, left)
        self._resume()
        with ProgressBar(epochs, epochs * self.batches.steps_per_epoch) as progress, self.signals.deferred():
            step = self._compile()
            while state.position.epoch <= epochs and not state.stopped_early:
                try:
                    epoch = self._train_epoch(step, progress)
                    state.check_finite(epoch.step)
                    metrics, stop_early = self._validate(epoch)
                    self._record(epoch, metrics)
                    progress.on_epoch_end(epoch.number, metrics)
                    if stop_early:
                        state.stopped_early = [epochs, patience]
                    if stop_early or epoch.number == epochs or checkpoints.should_save(epoch.step):
                        checkpoints.save(epoch.step)
                    if stop_early and epoch.number < epochs:
                        log.info("stopped early: no better epoch within trainer.patience=%d", patience)
                except NonFiniteError as error:
                    checkpoints.roll_back(error)
                    step.sync_from_model()
                    self.folder.write_metrics(state.rows)
        checkpoints.finish()
        state.best.restore(self.classifier)
        self.result["images_per_second"] = round(median_high(row["train/images_per_second"] for row in state.rows), 2)
        self.result["train_seconds"] = round(sum(row["seconds"] for row in state.rows), 3)
        if state.rollbacks:
            self.result["rollbacks"] = state.rollbacks
        return state.best

    def _resume(self) -> None:
        """Continue from the newest checkpoint of the run folder, if it has one."""
        extra = self.checkpoints.resume()
        state = self.state
        if extra is not None:
            self.result.setdefault("first_step_seconds", extra["result"].get("first_step_seconds"))
            log.info("resuming  at epoch %d, step %d of it", state.position.epoch, state.position.done)
            if state.stopped_early not in (None, [self.config.trainer.epochs, self.config.trainer.patience]):
                log.info("          trainer.patience counts anew from here")
                state.stopped_early, state.best.waiting_since = None, state.position.epoch - 1
            self._report_new_schedule()
            for row in state.rows:
                row.setdefault("time", time.time())  # an older version did not record it
        self._recorded = {row["epoch"]: row for row in read_metrics(self.folder.path).rows[len(state.rows) :]}
        self.folder.write_metrics(state.rows)

    def _report_new_schedule(self) -> None:
        """Log at which learning rate a resumed run continues, if its schedule is another one than before."""
        done = len(self.state.rows) * self.batches.steps_per_epoch
        before = self.state.rows[-1]["train/learning_rate"] if done else math.nan
        if done and not math.isclose(before, self._learning_rate(done - 1), rel_tol=1e-6):
            rate, epochs = self._learning_rate(done), self.config.trainer.epochs
            log.info(
                "          the schedule is over %d epochs now: learning rate %.2e, after %.2e", epochs, rate, before
            )

    def _compile(self) -> TrainStep:
        weights = self.dataset.class_weights(self.config.trainer.class_weights)
        computation = StepComputation(self.classifier.network, self.augmentation, self.optimizer, weights)
        step = compile_train_step(computation, xla=self.device.xla, devices=self.device.count)
        return ProfiledStep(step, self.folder.path / "profile") if self.config.trainer.profile else step

    def _train_epoch(self, step: TrainStep, progress: ProgressBar) -> EpochResult:
        """Make the rest of the epoch at which the position is, and move the position to the next one.

        Raises:
            NonFiniteError: Names the step, the epoch and the learning rate.
        """
        position, batches = self.state.position, self.batches
        number, length = position.epoch, batches.steps_per_epoch
        # Chunks of one length, because each length is compiled apart.
        most = min(self.device.steps_per_dispatch, batches.max_chunk_steps)
        chunk_steps = math.ceil(length / math.ceil(length / most))
        mixing = 0.0 if number > self.config.trainer.epochs - self.config.augmentation.mix_off_epochs else 1.0
        pending: list[tuple[int, Any]] = []  # first step and sums of chunks that the device may not have finished
        begin, compile_seconds, compile_steps = time.perf_counter(), 0.0, 0
        seconds_before, timer = position.seconds, InputTimer()
        for images, labels in timer.wrap(batches.chunks(number - 1, position.done, chunk_steps)):
            # ---- One call of the device: `len(images)` steps
            first = (number - 1) * length + position.done
            rates = [self._learning_rate(first + index) for index in range(len(images))]
            pending.append((first, step(images, labels, first, rates, mixing)))
            position.done += len(images)
            self._collect(pending, _MAX_PENDING)
            if not progress.warm:
                # The process' first call is mostly tracing and compiling: it is left out of the speed.
                self._collect(pending)
                progress.warm = True
                compile_seconds, compile_steps = time.perf_counter() - begin, len(images)
                timer.seconds = 0.0
            progress.on_step(number, position.done, length, batches.batch_size)
            # ---- A checkpoint within the epoch
            if position.done < length and self.checkpoints.should_save(first + len(images)):
                self._collect(pending)
                position.seconds += time.perf_counter() - begin
                step.sync_to_model()
                self.checkpoints.save(first + len(images))
                begin = time.perf_counter()
        self._collect(pending)
        position.seconds += time.perf_counter() - begin
        step.sync_to_model()
        if compile_seconds:
            self.result.setdefault("first_step_seconds", round(compile_seconds, 3))
        steps, seconds = length, position.seconds
        if compile_steps < length:
            steps, seconds = length - compile_steps, seconds - compile_seconds
        here = position.seconds - seconds_before - compile_seconds  # a former process may have begun the epoch
        totals = dict(zip(SUMS, position.sums, strict=True))
        epoch = EpochResult(
            number,
            number * length,
            {
                "train/loss": totals["loss"] / totals["images"],
                "train/accuracy": totals["correct"] / totals["images"],
                "train/top5_accuracy": totals["top5_correct"] / totals["images"],
                "train/learning_rate": self._learning_rate(number * length - 1),
                "train/images_per_second": steps * batches.batch_size / seconds,
                "train/waiting": timer.seconds / max(here, timer.seconds, 1e-9),
            },
            position.seconds,
        )
        self.state.position = Position(number + 1)
        return epoch

    def _collect(self, pending: list[tuple[int, Any]], keep: int = 0) -> None:
        """Wait for the device and add its sums, except for the newest `keep`, to the position's.

        The order decides the last bit. Raises `NonFiniteError` if a loss is not finite.
        """
        position = self.state.position
        while len(pending) > keep:
            first, sums = pending.pop(0)
            values = [float(value) for value in ops.convert_to_numpy(sums)]
            chunk = dict(zip(SUMS, values, strict=True))
            if not (math.isfinite(chunk["loss"]) and chunk["finite"] == chunk["images"]):
                # Once a loss is not finite it stays so: the finite steps of a chunk come first.
                step = first + int(chunk["finite"] / self.batches.batch_size)
                raise NonFiniteError(
                    f"the training loss became {chunk['loss']} at step {step + 1} (epoch {position.epoch}), at a "
                    f"learning rate of {self._learning_rate(step):.3g}."
                )
            position.sums = [total + value for total, value in zip(position.sums, values, strict=True)]

    def _validate(self, epoch: EpochResult) -> tuple[dict[str, float], bool]:
        """Measure the validation images and offer the weights as the best ones.

        Returns the epoch's metrics with `val/...` (and `val/raw/...`, of the weights themselves, where the averages are
        what is validated, chosen and kept), and whether to stop early.
        """
        validation, trainer, metrics = self.dataset.validation, self.config.trainer, dict(epoch.metrics)

        @on_process_0
        def evaluate_split(prefix: str) -> dict[str, float]:
            if validation is None:
                return {}
            batch_size = self.device.evaluation_batch_size(trainer.batch_size)
            found = evaluate(self.classifier, validation, batch_size, flip=self.config.flips_test_images)
            return dict(found.metrics(prefix))

        if self.config.optimizer.ema is not None:
            metrics |= evaluate_split("val/raw")
        with ema_weights(self.classifier.network, self.optimizer):
            metrics |= evaluate_split("val")
            return metrics, self.state.best.update(epoch.number, metrics, self.classifier)

    def _record(self, epoch: EpochResult, metrics: dict[str, float]) -> None:
        """Write the epoch's row of `metrics.csv`; an epoch that is repeated with equal results keeps its times."""
        row = {"epoch": epoch.number, "step": epoch.step, **metrics, "seconds": epoch.seconds, "time": time.time()}
        before = self._recorded.get(str(epoch.number), {})
        if all(before.get(key) == str(value) for key, value in row.items() if key not in TIME_COLUMNS):
            row |= {key: float(before[key]) for key in TIME_COLUMNS if key in before}
        self.state.rows.append(row)
        if row.keys() == self.state.rows[0].keys():
            self.folder.append_metrics(row)
        else:  # the first rows are of a version that measured less
            self.folder.write_metrics(self.state.rows)

    def _learning_rate(self, step: int) -> float:
        return self.schedule(step) * self.state.rate_scale

    def _learning_rate_factors(self) -> list[float] | None:
        """Return what the learning rate of each trainable variable is multiplied by; None: 1 for all."""
        decay, depth = self.config.trainer.layer_decay, self.config.model.depth
        if decay == 1:
            return None
        variables = self.classifier.trainable_variables
        return [decay ** (depth + 1 - layer_depth(variable.path, depth)) for variable in variables]


class InputTimer:
    """Measures how many `seconds` a loop waits for its next item."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and measure."""
        begin = time.perf_counter()
        for item in items:
            self.seconds += time.perf_counter() - begin
            yield item
            begin = time.perf_counter()
