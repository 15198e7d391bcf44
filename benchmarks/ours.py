"""tnt-exp's own training step and prediction, as `tnt-exp train` runs them."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tnt_exp import model
from tnt_exp.augmentation import Augmentation
from tnt_exp.config.compose import compose
from tnt_exp.data import Batches
from tnt_exp.data.dataset import Split
from tnt_exp.training import optimizer
from tnt_exp.training.device import prepare_device
from tnt_exp.training.train_step import DeviceBatches, StepComputation, TrainStep, compile_train_step

_CHUNK_BYTES = 2**28  # of a chunk's images at most, as in tnt_exp.data.batches


class Ours:
    """One configuration, trained on noise; `side`: side of the images as they come, by default CIFAR's."""

    def __init__(
        self, batch: int, overrides: Sequence[str], side: int = 32, channels: int = 3, classes: int = 100
    ) -> None:
        config = compose(["dataset=cifar100", *overrides])
        self.device = device = prepare_device(config.trainer)
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (batch, side, side, channels), dtype=np.uint8)
        self.labels = random.integers(0, classes, batch).astype(np.int32)
        self.classifier = model.build(config.model, classes, channels, remat=config.trainer.remat)
        self.classifier.jit_compile = device.xla
        self.config = config
        self.count = 0

    @functools.cached_property
    def step(self) -> TrainStep:
        """The training step, with the state of its optimizer."""
        config, classes = self.config, self.classifier.network.config.num_classes
        augmentation = Augmentation(
            config.augmentation,
            image_size=config.model.image_size,
            mean=config.model.mean,
            std=config.model.std,
            num_classes=classes,
            label_smoothing=config.trainer.label_smoothing,
            seed=0,
            branching=self.device.kind == "cpu",
        )
        update = optimizer.build_optimizer(
            config.optimizer, self.classifier.trainable_variables, model.is_decayed, scale_loss=False
        )
        computation = StepComputation(self.classifier.network, augmentation, update)
        return compile_train_step(computation, xla=self.device.xla)

    def parameters(self) -> int:
        """How many."""
        return self.classifier.count_params()

    def chunks(self) -> tuple[int, Iterator[tuple[Any, Any]]]:
        """Steps per chunk, and chunks of noise without end, as the training loop chooses and feeds them."""
        batch, image = len(self.images), self.images[0].nbytes
        most = min(self.device.steps_per_dispatch, max(1, _CHUNK_BYTES // self.images.nbytes))
        labels = np.resize(self.labels, max(batch * most, min(50_000, 2 * _CHUNK_BYTES // image)))
        images = np.random.default_rng(0).integers(0, 256, (len(labels), *self.images.shape[1:]), dtype=np.uint8)
        split = Split(images, labels)
        on_device = self.device.kind == "gpu" and DeviceBatches.fits(split)
        batches = (DeviceBatches if on_device else Batches)(split, batch, seed=0)
        steps = min(most, batches.max_chunk_steps)

        def endless() -> Iterator[tuple[Any, Any]]:
            for epoch in itertools.count():
                for images, labels in batches.chunks(epoch, 0, steps):
                    if len(images) == steps:  # each length is compiled apart
                        yield images, labels

        return steps, endless()

    def train(self) -> None:
        """One step, to its end."""
        sums = self.step(self.images[None], self.labels[None], self.count, [1e-3], 1.0)
        self.count += 1
        keras.ops.convert_to_numpy(sums)

    def infer(self) -> None:
        """One batch."""
        self.classifier.predict_on_batch(self.images)
