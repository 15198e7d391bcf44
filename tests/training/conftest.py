"""A tiny classifier and what trains it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tnt_exp.config.compose import compose

Make = Callable[..., tuple[Any, Any, Any]]


@pytest.fixture
def make() -> Make:
    """Build (classifier, optimizer, step) from overrides of the tiny preset."""

    def build(
        *overrides: str, xla: bool = False, learning_rate_factors: list[float] | None = None
    ) -> tuple[Any, Any, Any]:
        from tnt_exp import model
        from tnt_exp.augmentation import Augmentation
        from tnt_exp.training import optimizer as optimizers
        from tnt_exp.training.train_step import StepComputation, compile_train_step

        config = compose(["model=tiny", *overrides])
        classifier = model.build(config.model, 10, 1, seed=config.seed)
        augmentation = Augmentation(
            config.augmentation,
            image_size=config.model.image_size,
            mean=config.model.mean,
            std=config.model.std,
            num_classes=10,
            label_smoothing=config.trainer.label_smoothing,
            seed=config.seed,
        )
        optimizer = optimizers.build_optimizer(
            config.optimizer,
            classifier.trainable_variables,
            model.is_decayed,
            learning_rate_factors=learning_rate_factors,
            scale_loss=False,
        )
        step = compile_train_step(StepComputation(classifier.network, augmentation, optimizer), xla=xla)
        return classifier, optimizer, step

    return build


@pytest.fixture
def chunk() -> tuple[np.ndarray, np.ndarray]:
    """Four batches of eight images: uint8 (4, 8, 8, 8, 1), int32 (4, 8)."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (4, 8, 8, 8, 1), dtype=np.uint8), random.integers(0, 10, (4, 8), dtype=np.int32)
