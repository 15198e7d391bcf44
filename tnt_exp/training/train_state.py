"""Which epoch's weights are kept, and when to stop early."""

# MERGED DOCS:
# """All that changes while a run trains, as one checkpoint and back."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from keras import ops

from tnt_exp.config.trainer import Select
from tnt_exp.training.checkpoint import Checkpoint, NonFiniteError, all_finite
from tnt_exp.training.flat_optimizer import FlatOptimizer
from tnt_exp.training.train_step import SUMS


@dataclass
class BestWeights:
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


@dataclass
class Position:
    """Where in the run: what the loop has done.

    Attributes:
        epoch: The epoch under way, from 1.
        done: Steps of it that were made.
        sums: `SUMS` over those steps.
        seconds: Their time.
    """

    epoch: int = 1
    done: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(SUMS))
    seconds: float = 0.0


@dataclass
class TrainState:
    """Weights, optimizer, random state, position, choice and curve of a run.

    Args:
        classifier: Its variables: weights and the state of random numbers.
        optimizer: Its variables: moments, averages, number of updates.
        choice: The best epoch so far.
        position: Of the loop.
        rows: Of `metrics.csv`.
        rollbacks: Times it went back to a checkpoint, because something was not finite.
        rate_scale: What the learning rate is multiplied by since.
    """

    classifier: Any
    optimizer: FlatOptimizer
    choice: BestWeights
    position: Position = field(default_factory=Position)
    rows: list[dict[str, float]] = field(default_factory=list)
    rollbacks: int = 0
    rate_scale: float = 1.0

    def scaled(self, rate: Callable[[int], float]) -> Callable[[int], float]:
        """A learning rate as it is after the rollbacks that there were."""
        return lambda step: rate(step) * self.rate_scale

    def check(self, step: int) -> None:
        """Raise `NonFiniteError` where weights are not finite after this many steps."""
        _check_names(step, "weights", [ops.convert_to_numpy(variable) for variable in self.classifier.variables])

    def checkpoint(self, step: int, numbers: dict[str, Any]) -> Checkpoint:
        """A copy of everything, with further numbers of the caller.

        Raises:
            NonFiniteError: Something is infinite or not a number: no state to go on from.
        """
        state = self._arrays()
        for kind, values in state.items():
            _check_names(step, f"{kind} state", values)
        arrays = {
            f"{kind}/{index:04d}": np.array(value, copy=True)
            for kind, values in state.items()
            for index, value in enumerate(values)
        }
        own = {
            "position": asdict(self.position),
            "rows": self.rows,
            "choice": self.choice.numbers(),
            "rollbacks": self.rollbacks,
            "rate_scale": self.rate_scale,
            "counts": {kind: len(values) for kind, values in state.items()},
        }
        return Checkpoint(step, arrays, {**numbers, "state": own})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take everything over.

        Raises:
            ValueError: The checkpoint is of another network or optimizer; nothing was changed.
        """
        own = checkpoint.numbers["state"]
        values = {
            kind: [checkpoint.arrays[f"{kind}/{index:04d}"] for index in range(count)]
            for kind, count in own["counts"].items()
        }
        targets = {"classifier": self.classifier.variables, "optimizer": self.optimizer.variables}
        for kind, variables in targets.items():
            shapes = [tuple(variable.shape) for variable in variables]
            if shapes != [value.shape for value in values[kind]]:
                raise ValueError(f"Expected a checkpoint of this {kind}, received one of another.")
        for kind, variables in targets.items():
            for variable, value in zip(variables, values[kind], strict=True):
                variable.assign(value)
        self.choice.take(own["choice"], values["choice"])
        for name, value in own["position"].items():
            setattr(self.position, name, value)  # the loop has the same one
        self.rows[:] = own["rows"]
        self.rollbacks, self.rate_scale = own["rollbacks"], own["rate_scale"]

    def _arrays(self) -> dict[str, list[np.ndarray]]:
        return {
            "classifier": [ops.convert_to_numpy(variable) for variable in self.classifier.variables],
            "optimizer": [ops.convert_to_numpy(variable) for variable in self.optimizer.variables],
            "choice": self.choice.weights,
        }


def _check_names(step: int, what: str, values: Sequence[np.ndarray]) -> None:
    if not all(all_finite(value) for value in values):
        raise NonFiniteError(f"the {what} became infinite or not a number at step {step}.")
