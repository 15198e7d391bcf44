"""One experiment from its configuration to a complete run folder: data, model, training, test, saved model.

What is slow to import (the backend, Keras, MLflow) is imported where it is first needed, after everything that can
fail without it.
"""

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tnt_exp import data, provenance
from tnt_exp.atomic_files import JsonObject
from tnt_exp.config import Config, validation
from tnt_exp.config.augmentation import AugmentationConfig
from tnt_exp.config.trainer import Precision
from tnt_exp.errors import UserError, describe_system_error
from tnt_exp.run_folder import RunFolder, write_confusion_matrix
from tnt_exp.signals import Signals
from tnt_exp.training.checkpoint import CheckpointStore

if TYPE_CHECKING:
    from tnt_exp.augmentation import Augmentation
    from tnt_exp.model.classifier import Classifier
    from tnt_exp.tracking.tracker import Tracker
    from tnt_exp.training.device import Device
    from tnt_exp.training.train_state import BestWeights

log = logging.getLogger("tnt_exp")

_SAMPLES = 32  # images in samples.png


@contextmanager
def _picture() -> Iterator[None]:
    """Continue with a warning if what the block draws fails."""
    try:
        yield
    except Exception as error:
        log.warning("without this picture: %s", describe_system_error(error) or repr(error))


@dataclass
class Experiment:
    """One experiment; `train` runs it."""

    config: Config  # composed and validated
    folder: RunFolder
    result: JsonObject  # what `result.json` will hold; filled as things become known
    signals: Signals
    tags: dict[str, str] = field(default_factory=dict)  # of the MLflow run; `sweep_id` if it is a trial of a sweep
    tracker: "Tracker | None" = None

    def train(self) -> None:
        """Run the experiment, or continue it from its last checkpoint."""
        config = self.config

        # ---- Data
        dataset = data.load_dataset(config.dataset)
        validation.validate(config, channels=dataset.channels, train_images=len(dataset.train))
        if config.trainer.patience is not None and dataset.validation is None:
            raise UserError(f"{validation.NO_VALIDATION}, received {config.trainer.patience}.")
        dataset.class_weights(config.trainer.class_weights)  # raises an error for an unknown name
        self._require_the_same_data(dataset)

        # ---- MLflow run
        if config.tracking.enabled:
            from tnt_exp.tracking.tracker import start_run

            self.tracker = start_run(config, self.folder, dataset, self.tags, self.result)

        # ---- Device: from here on the backend and Keras are imported
        given = {"dataset_digest": dataset.digest, "environment": provenance.environment()}
        device = self._prepare_device()
        provenance.record(self.folder.path, hardware=self.result["hardware"], **given)

        # ---- Model
        classifier = self._build_classifier(dataset, device)

        # ---- Training
        from tnt_exp.training.distributed import process_index
        from tnt_exp.training.trainer import Trainer

        trainer = Trainer(config, classifier, dataset, device, self.folder, self.signals, self.result)
        self._draw_samples(classifier, trainer.augmentation, dataset)
        best = trainer.fit()
        if process_index() > 0:
            return  # process 0 does the rest

        # ---- Test, with the weights of the chosen epoch
        self._test(classifier, dataset, device, best, trainer.state.rows)

        # ---- Saved model
        self._save(classifier, dataset)

    def close(self) -> None:
        """Send MLflow the result and the files of the run; `result.json` is written."""
        if self.tracker:
            self.tracker.finish()

    def next_steps(self) -> str:
        """Return where the results are, and how to compare and use them, a line each."""
        lines = [f"run folder {self.folder.path}"]
        if self.tracker and self.tracker.run_id:
            from tnt_exp.tracking.client import ui_command

            lines.append(f"compare    {ui_command(self.tracker.uri, self.tracker.experiment_id)}")
        if self.result["status"] == "FINISHED":
            folder = self.folder.path
            path = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
            lines.append(f"use        tnt-exp predict {shlex.quote(str(path))} FILE")
        return "\n".join(lines)

    def _require_the_same_data(self, dataset: data.Dataset) -> None:
        """Record the data of a new run, or raise `UserError`: they have changed since the run began."""
        before = self.folder.read_dataset()
        if before and before["digest"] != dataset.digest:
            gained = [name for name in dataset.class_names if name not in before["class_names"]]
            lost = [name for name in before["class_names"] if name not in dataset.class_names]
            changes = [f"new classes: {', '.join(gained)}"] if gained else []
            changes += [f"missing classes: {', '.join(lost)}"] if lost else []
            now, then = len(dataset.train), before["images"]["train"]
            changes += [f"{now} training images instead of {then}"] if then != now else []
            raise UserError(
                f"{self.folder.path}: expected the images with which this run began, received others "
                f"({'; '.join(changes) or 'other contents'}). Restore them, choose another run.name (of a sweep: "
                "hydra.sweep.dir), or add trainer.resume=never."
            )
        if "shape" not in before:  # new, or written by an older version
            self.folder.write_dataset(dataset, self.config.dataset.path or dataset.name)

    def _prepare_device(self) -> "Device":
        from tnt_exp.training.device import prepare_device

        trainer = self.config.trainer
        if trainer.precision is Precision.auto:
            trainer = trainer.with_precision(self._recorded_precision())
        device = prepare_device(trainer)
        self.result["versions"] = provenance.versions()
        self.result["hardware"] = {
            "device": device.kind,
            "name": device.name,
            "devices": device.count,
            "backend": device.backend,
            "precision": device.precision,
            "tf32": device.kind == "gpu" and self.config.trainer.tf32,
            "xla": device.xla,
        }
        xla = "compiled by XLA" if device.xla else "without XLA"
        log.info("device    %s (%s), %s, %s, %s", device.name, device.kind, device.backend, xla, device.precision)
        return device

    def _recorded_precision(self) -> str | None:
        """Return the precision with which the run began: of its first start or, if that is lost, of a checkpoint."""
        found = provenance.recorded_precision(self.folder.path)
        if found is None and (checkpoint := CheckpointStore(self.folder.checkpoints, keep=1).newest()):
            found = checkpoint.values["result"].get("hardware", {}).get("precision")
        return found

    def _build_classifier(self, dataset: data.Dataset, device: "Device") -> Any:
        from tnt_exp import model
        from tnt_exp.model import cost

        config = self.config
        classifier = model.build(
            config.model,
            dataset.num_classes,
            dataset.channels,
            class_names=dataset.class_names,
            seed=config.seed,
            remat=config.trainer.remat,
        )
        if config.model.weights is not None:
            from tnt_exp.model.pretrained import load_weights
            from tnt_exp.model.weights_file import find_weights

            log.info("weights   %s", config.model.weights)
            file = find_weights(config.model.weights)
            source = model.load(file).network if file.suffix == ".keras" else file
            for remark in load_weights(classifier.network, source):
                log.info("          %s", remark)
        model.freeze(classifier.network, config.trainer.freeze.value)
        classifier.jit_compile = device.xla  # for evaluation; training has a step of its own
        parameters, macs = classifier.count_params(), cost.macs(config.model, dataset.num_classes, dataset.channels)
        self.result |= {"parameters": parameters, "macs": macs}
        log.info("model     %s: %s parameters, %.4g M MACs per image", config.model.name, f"{parameters:,}", macs / 1e6)
        counts = ", ".join(f"{len(split):,} {name}" for name, split in dataset.splits.items())
        shape, classes = "x".join(map(str, dataset.image_shape)), dataset.num_classes
        log.info("data      %s: %s images of %s in %d classes", dataset.name, counts, shape, classes)
        return classifier

    def _draw_samples(self, classifier: Any, augmentation: "Augmentation", dataset: data.Dataset) -> None:
        """Draw training images of all classes as evaluation sees them, and beside each the augmented one."""
        from keras import ops

        from tnt_exp.reports import run_figures

        labels = np.asarray(dataset.train.labels)
        by_class = np.argsort(labels, kind="stable")
        ranks = np.empty(len(labels), np.int64)  # the how manyth image of its class, from 0
        ranks[by_class] = np.arange(len(labels)) - np.searchsorted(labels[by_class], labels[by_class])
        count = min(max(_SAMPLES, dataset.num_classes), 100)
        indices = np.lexsort((labels, ranks))[:count]  # the first image of each class, then the second of each...
        indices = indices[np.lexsort((ranks[indices], labels[indices]))]
        images, labels = dataset.train.images[indices], labels[indices]
        inputs, _ = augmentation(images, labels, 0, 0.0)
        pairs = [
            np.asarray(ops.convert_to_numpy(found), np.float32) for found in (classifier.preprocess(images), inputs)
        ]
        plain, augmented = (pixels * self.config.model.std + self.config.model.mean for pixels in pairs)
        gap = np.ones_like(plain[:, :, : max(1, plain.shape[2] // 24)])
        with _picture():
            run_figures.draw_samples(
                np.concatenate([plain, gap, augmented], axis=2),
                [dataset.class_names[label] for label in labels],
                self.folder.plots / "samples.png",
                columns=4 if count <= 40 else 8,
                caption="Left: as evaluation sees it. Right: after the augmentation of the first step, before mixing.",
            )

    def _test(
        self,
        classifier: "Classifier",
        dataset: data.Dataset,
        device: "Device",
        best: "BestWeights",
        rows: list[dict[str, float]],
    ) -> None:
        from tnt_exp.evaluation import evaluate
        from tnt_exp.reports import run_figures

        trainer, plots = self.config.trainer, self.folder.plots
        batch_size = device.evaluation_batch_size(trainer.batch_size)
        test = evaluate(classifier, dataset.test, batch_size, flip=self.config.flips_test_images)
        self.result["epoch"] = best.epoch
        self.result["metrics"] = {**best.metrics, **dict(test.metrics("test"))}
        self.result["class_accuracy"] = test.accuracy_by_name(dataset.class_names)
        write_confusion_matrix(self.folder.path, test.confusion, dataset.class_names)
        title, file = f"{dataset.name} test: accuracy {test.accuracy:.4f}", plots / "confusion_matrix.png"
        with _picture():
            run_figures.draw_curves(rows, best.epoch, plots / "curves.png", self._training_differs())
        with _picture():
            run_figures.draw_confusion_matrix(test.confusion, dataset.class_names, title, file)
        values = {"accuracy": test.accuracy, "balanced": test.balanced_accuracy, "macro F1": test.macro_f1}
        values |= {"top-5": test.top5_accuracy} if dataset.num_classes > 5 else {}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in {**values, "loss": test.loss}.items())
        log.info("test      %s (weights of epoch %d)", shown, best.epoch)

    def _training_differs(self) -> list[str]:
        """Return in words what makes loss and accuracy of training other than those of validation."""
        config, plain = self.config, AugmentationConfig(name=self.config.augmentation.name)
        reasons = ["augmented"] if config.augmentation != plain else []
        reasons += ["smoothed labels"] if config.trainer.label_smoothing else []
        return reasons + (["weighted classes"] if config.trainer.class_weights != "none" else [])

    def _save(self, classifier: "Classifier", dataset: data.Dataset) -> None:
        from tnt_exp.training.device import without_packages

        # Keras would load it on each backend, to ask what is a tensor of it: two seconds, 0.4 GiB, and a GPU's memory.
        with without_packages({"tensorflow"}):
            self.folder.save_model(classifier)
        if self.tracker and self.config.tracking.log_model:
            self.tracker.model(classifier, dataset.test.images[:1])
