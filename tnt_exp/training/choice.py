"""Which epoch's weights are kept, and when to stop early."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops

from tnt_exp.config.trainer import Select


@dataclass
class Choice:
    """Keeps the weights of the best epoch on validation, or of the last.

    Args:
        select: Best or last.
        patience: Stop after this many epochs without a better one; None: never.

    Attributes:
        epoch: The epoch whose weights are kept, from 1.
        metrics: Its metrics.
        weights: The kept values of the classifier's variables.
    """

    select: Select
    patience: int | None
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    weights: list[np.ndarray] = field(default_factory=list)
    _best: tuple[float, float] = (-1.0, 0.0)
    _best_epoch: int = 0

    def offer(self, epoch: int, metrics: dict[str, float], classifier: Any) -> bool:
        """Consider an epoch; returns whether to stop early. Without validation the last epoch is kept."""
        # On a small validation set accuracies are often equal: then the lower loss is better.
        measured = (metrics["val/accuracy"], -metrics["val/loss"]) if "val/accuracy" in metrics else None
        better = measured is None or measured > self._best
        if better:
            self._best, self._best_epoch = measured or self._best, epoch
        if better or self.select is Select.last:
            self.epoch, self.metrics = epoch, metrics
            self.weights = [ops.convert_to_numpy(variable) for variable in classifier.variables]
        return self.patience is not None and epoch - self._best_epoch >= self.patience

    def restore(self, classifier: Any) -> None:
        """Give the classifier the kept weights."""
        for variable, value in zip(classifier.variables, self.weights, strict=True):
            variable.assign(value)

    def numbers(self) -> dict[str, Any]:
        """All but the weights, for a checkpoint."""
        return {"epoch": self.epoch, "metrics": self.metrics, "best": self._best, "best_epoch": self._best_epoch}

    def take(self, numbers: dict[str, Any], weights: list[np.ndarray]) -> None:
        """Go on from a checkpoint."""
        self.epoch, self.metrics, self.weights = numbers["epoch"], numbers["metrics"], weights
        self._best, self._best_epoch = tuple(numbers["best"]), numbers["best_epoch"]
