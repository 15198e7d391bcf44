"""The way through: data, model, training, evaluation, pictures, tracking.

What is slow to import (the backend, Keras, MLflow) is imported where it is first needed, after all that can fail
without it.
"""

import logging
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tnt_exp import data, provenance
from tnt_exp.config import Config, validation
from tnt_exp.run_folder import ARTIFACTS, RunFolder
from tnt_exp.signals import Signals
from tnt_exp.training.checkpoint import NonFiniteError

if TYPE_CHECKING:
    from tnt_exp.augmentation import Augmentation
    from tnt_exp.tracking import Tracker
    from tnt_exp.training.checkpoint_manager import CheckpointManager
    from tnt_exp.training.device import Device
    from tnt_exp.training.flat_optimizer import FlatOptimizer
    from tnt_exp.training.progress import ProgressBar
    from tnt_exp.training.train_state import BestWeights, TrainState
    from tnt_exp.training.trainer import Trainer

log = logging.getLogger("tnt_exp")


@dataclass
class Experiment:
    """One experiment.

    Args:
        config: Composed and checked.
        folder: Where everything goes.
        result: What `result.json` will say; filled as things become known.
        signals: Requests to stop.
        tags: Further tags of the MLflow run; `sweep_id` where this is one of many.
    """

    config: Config
    folder: RunFolder
    result: dict[str, Any]
    signals: Signals
    tags: dict[str, str] = field(default_factory=dict)
    tracker: "Tracker | None" = None
    rows: list[dict[str, float]] = field(default_factory=list)

    def train(self) -> None:
        """From the configuration to a complete run folder."""
        dataset = data.load_dataset(self.config.dataset)
        validation.validate(self.config, channels=dataset.channels, train_images=len(dataset.train))
        if self.config.tracking.enabled:
            from tnt_exp.tracking import start_run

            self.tracker = start_run(self.config, self.folder, dataset, self.tags)
            self.result["mlflow_run_id"] = self.tracker.run_id
        device = self._prepare()
        provenance.record(self.folder.path, hardware=self.result["hardware"], dataset_digest=dataset.digest)
        classifier = self._build(dataset, device)
        choice = self._fit(classifier, dataset, device)
        self._test(classifier, dataset, choice)
        self._keep(classifier, dataset)

    def close(self) -> None:
        """Tell MLflow how the run ended; `result.json` is written."""
        if self.tracker:
            self.tracker.artifacts(ARTIFACTS)
            self.tracker.finish(self.result["status"])

    def where_to_look(self) -> str:
        """What a person does next."""
        lines = [f"run folder {self.folder.path}"]
        if self.tracker:
            from tnt_exp.tracking import ui_command

            lines.append(f"compare    {ui_command(self.tracker.uri)}")
        return "\n".join(lines)

    def _prepare(self) -> "Device":
        from tnt_exp.training.device import prepare_device

        device = prepare_device(self.config.trainer)
        self.result["versions"] = provenance.versions()
        self.result["hardware"] = {
            "device": device.kind,
            "name": device.name,
            "devices": device.count,
            "backend": device.backend,
            "precision": self.config.trainer.precision.value,
            "xla": device.xla,
        }
        if self.tracker:
            self.tracker.tags({"hardware": device.name, "host": platform.node()})
        xla = "compiled by XLA" if device.xla else "without XLA"
        log.info("device    %s (%s), %s, %s", device.name, device.kind, device.backend, xla)
        return device

    def _build(self, dataset: data.Dataset, device: "Device") -> Any:
        from tnt_exp import model
        from tnt_exp.model import cost

        classifier = model.build(
            self.config.model,
            dataset.num_classes,
            dataset.channels,
            class_names=dataset.class_names,
            seed=self.config.seed,
            remat=self.config.trainer.remat,
        )
        if self.config.model.weights is not None:
            from tnt_exp.model.pretrained import load_pytorch

            log.info("weights   %s", self.config.model.weights)
            for remark in load_pytorch(classifier.network, self.config.model.weights):
                log.info("          %s", remark)
        model.freeze(classifier.network, self.config.trainer.freeze.value)
        classifier.jit_compile = device.xla  # for evaluation; training has a step of its own
        self.result["parameters"] = classifier.count_params()
        self.result["macs"] = cost.macs(self.config.model, dataset.num_classes, dataset.channels)
        if self.tracker:
            self.tracker.metrics({key: self.result[key] for key in ("parameters", "macs")}, step=0)
        parameters, macs = self.result["parameters"], self.result["macs"] / 1e6
        log.info("model     %s: %s parameters, %.4g M MACs an image", self.config.model.name, f"{parameters:,}", macs)
        log.info(
            "data      %s: %s images of %s in %d classes",
            dataset.name,
            ", ".join(
                f"{len(split):,} {name}"
                for name, split in (
                    ("train", dataset.train),
                    ("validation", dataset.validation),
                    ("test", dataset.test),
                )
                if split is not None
            ),
            "x".join(map(str, dataset.image_shape)),
            dataset.num_classes,
        )
        return classifier

    def _fit(self, classifier: Any, dataset: data.Dataset, device: "Device") -> "BestWeights":
        from tnt_exp.training.progress import ProgressBar
        from tnt_exp.training.train_state import BestWeights, TrainState

        trainer = self.config.trainer
        augmentation = self._augmentation(dataset)
        self._draw_samples(augmentation, dataset)
        batches = data.Batches(dataset.train, trainer.batch_size, self.config.seed, self.config.augmentation.repeats)
        optimizer = self._optimizer(classifier)
        state = TrainState(classifier, optimizer, BestWeights(trainer.select, trainer.patience), rows=self.rows)
        keeper = self._keeper(state, dataset, batches.steps_per_epoch)
        with ProgressBar(trainer.epochs, trainer.epochs * batches.steps_per_epoch) as progress, self.signals.deferred():
            loop = self._loop(state, augmentation, batches, device, progress, keeper)
            while not self._epochs(loop, state, dataset, progress, keeper):
                loop.step.push()
                self.folder.write_metrics(self.rows)
        keeper.finish()
        self.signals.raise_if_requested()
        state.choice.restore(classifier)
        rates = sorted(row["train/images_per_second"] for row in self.rows)
        self.result["images_per_second"] = round(rates[len(rates) // 2], 2)
        self.result["train_seconds"] = round(sum(row["seconds"] for row in self.rows), 3)
        if state.rollbacks:
            self.result["rollbacks"] = state.rollbacks
        return state.choice

    def _epochs(
        self,
        loop: "Trainer",
        state: "TrainState",
        dataset: data.Dataset,
        progress: "ProgressBar",
        keeper: "CheckpointManager",
    ) -> bool:
        """Train to the end; False: the state went back to a checkpoint."""
        trainer = self.config.trainer
        try:
            for epoch in loop:
                state.check(epoch.step)
                metrics, stop = self._validate(epoch.number, epoch.metrics, state, dataset)
                if epoch.first_step_seconds is not None:
                    self.result.setdefault("first_step_seconds", round(epoch.first_step_seconds, 3))
                self.rows.append({"epoch": epoch.number, "step": epoch.step, **metrics, "seconds": epoch.seconds})
                self.folder.append_metrics(self.rows[-1])
                if self.tracker:
                    self.tracker.metrics(metrics, epoch.number)
                progress.epoch(epoch.number, metrics)
                last = stop or epoch.number == trainer.epochs
                if stop:
                    state.position.epoch = trainer.epochs + 1  # a run that goes on from here has no more to train
                if last or keeper.due(epoch.step):
                    keeper.keep(epoch.step)
                if stop:
                    log.info("no better epoch for %d epochs: stopped early", trainer.patience)
                    break
        except NonFiniteError as error:
            keeper.roll_back(error)
            return False
        return True

    def _keeper(self, state: "TrainState", dataset: data.Dataset, epoch_steps: int) -> "CheckpointManager":
        from tnt_exp.training.checkpoint_manager import CheckpointManager

        keeper = CheckpointManager(
            state,
            self.folder.checkpoints,
            self.config.trainer,
            epoch_steps,
            self.signals,
            about={"dataset": dataset.digest, "result": self.result},
        )
        found = keeper.resume()
        if found is not None:
            self.result.setdefault("first_step_seconds", found["result"].get("first_step_seconds"))
            log.info("going on   from epoch %d, step %d of it", state.position.epoch, state.position.done)
            if self.tracker:  # a loss of power may have taken what was said last; what was not is passed over
                for row in self.rows:
                    metrics = {key: value for key, value in row.items() if key not in ("epoch", "step", "seconds")}
                    self.tracker.metrics(metrics, int(row["epoch"]))
        self.folder.write_metrics(self.rows)
        return keeper

    def _augmentation(self, dataset: data.Dataset) -> "Augmentation":
        from tnt_exp.augmentation import Augmentation

        return Augmentation(
            self.config.augmentation,
            image_size=self.config.model.image_size,
            mean=self.config.model.mean,
            std=self.config.model.std,
            num_classes=dataset.num_classes,
            label_smoothing=self.config.trainer.label_smoothing,
            seed=self.config.seed,
        )

    def _optimizer(self, classifier: Any) -> "FlatOptimizer":
        from tnt_exp import model
        from tnt_exp.training import optimizer as optimizers

        return optimizers.build_optimizer(
            self.config.optimizer,
            classifier.trainable_variables,
            model.is_decayed,
            factors=self._rate_factors(classifier),
            scale_loss=self.config.trainer.precision.value == "mixed_float16",
        )

    def _loop(
        self,
        state: "TrainState",
        augmentation: "Augmentation",
        batches: data.Batches,
        device: "Device",
        progress: "ProgressBar",
        keeper: "CheckpointManager",
    ) -> "Trainer":
        from tnt_exp.training.lr_schedule import LearningRateSchedule
        from tnt_exp.training.profiler import ProfiledStep
        from tnt_exp.training.train_step import StepComputation, compile_train_step
        from tnt_exp.training.trainer import Trainer

        epochs, rate = self.config.trainer.epochs, self.config.optimizer.learning_rate
        work = StepComputation(state.classifier.network, augmentation, state.optimizer)
        step = compile_train_step(work, xla=device.xla, devices=device.count)
        return Trainer(
            step=ProfiledStep(step, self.folder.path / "profile") if self.config.trainer.profile else step,
            batches=batches,
            rate=state.scaled(LearningRateSchedule(self.config.schedule, rate, batches.steps_per_epoch, epochs)),
            epochs=epochs,
            mix_off_epochs=self.config.augmentation.mix_off_epochs,
            steps_per_dispatch=device.steps_per_dispatch,
            progress=progress,
            position=state.position,
            pause=keeper.due,
            keep=keeper.keep,
        )

    def _rate_factors(self, classifier: Any) -> list[float] | None:
        from tnt_exp import model

        decay, depth = self.config.trainer.layer_decay, self.config.model.depth
        if decay == 1:
            return None
        return [
            decay ** (depth + 1 - model.depth_of(variable.path, depth)) for variable in classifier.trainable_variables
        ]

    def _validate(
        self, number: int, metrics: dict[str, float], state: "TrainState", dataset: data.Dataset
    ) -> tuple[dict[str, float], bool]:
        """The epoch's metrics with `val/...`, and whether to stop early."""
        from tnt_exp.evaluation import evaluate
        from tnt_exp.training.optimizer import ema_weights

        metrics, classifier = dict(metrics), state.classifier
        batch_size, flip = self.config.trainer.batch_size, self.config.trainer.test_time_flip
        if dataset.validation is not None and self.config.optimizer.ema is not None:
            metrics |= evaluate(classifier, dataset.validation, batch_size, flip=flip).metrics("val/raw")
        # Where weights are averaged, the average is what is validated, chosen and kept.
        with ema_weights(classifier.network, state.optimizer):
            if dataset.validation is not None:
                metrics |= evaluate(classifier, dataset.validation, batch_size, flip=flip).metrics("val")
            return metrics, state.choice.offer(number, metrics, classifier)

    def _test(self, classifier: Any, dataset: data.Dataset, choice: "BestWeights") -> None:
        from tnt_exp.evaluation import evaluate
        from tnt_exp.reports import run_figures

        trainer = self.config.trainer
        test = evaluate(classifier, dataset.test, trainer.batch_size, flip=trainer.test_time_flip)
        self.result["epoch"] = choice.epoch
        self.result["metrics"] = {**choice.metrics, **dict(test.metrics("test"))}
        self.result["class_accuracy"] = test.accuracy_by_name(dataset.class_names)
        if self.tracker:
            self.tracker.metrics(dict(test.metrics("test")), step=choice.epoch)
        run_figures.draw_curves(self.rows, choice.epoch, self.folder.plots / "curves.png")
        title = f"{dataset.name} test: accuracy {test.accuracy:.4f}"
        run_figures.draw_confusion_matrix(
            test.confusion, dataset.class_names, title, self.folder.plots / "confusion_matrix.png"
        )
        log.info(
            "test      accuracy %.4f, top-5 %.4f, loss %.4f (weights of epoch %d)",
            test.accuracy,
            test.top5_accuracy,
            test.loss,
            choice.epoch,
        )

    def _draw_samples(self, augmentation: "Augmentation", dataset: data.Dataset) -> None:
        import numpy as np

        from tnt_exp.reports import run_figures

        count = min(32, len(dataset.train))
        images, labels = dataset.train.images[:count], dataset.train.labels[:count]
        seen, _ = augmentation(images, labels, 0, 0.0)
        pixels = np.asarray(seen, np.float32) * np.asarray(self.config.model.std) + np.asarray(self.config.model.mean)
        titles = [dataset.class_names[label] for label in labels]
        run_figures.draw_samples(pixels, titles, self.folder.plots / "samples.png")

    def _keep(self, classifier: Any, dataset: data.Dataset) -> None:
        from tnt_exp.training.device import load_tensorflow

        load_tensorflow()
        self.folder.save_model(classifier)
        if self.tracker and self.config.tracking.log_model:
            requirements = [f"{name}=={self.result['versions'][name]}" for name in ("keras", "tensorflow")]
            register, metrics = self.config.tracking.register, self.result["metrics"]
            epoch = self.result["epoch"]
            self.tracker.model(classifier, dataset.test.images[:1], requirements, epoch, register, metrics)
