"""All that changes while a run trains: weights, optimizer, position, best weights; to a checkpoint and back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import keras
import numpy as np
from keras import ops

from tnt_exp.atomic_files import JsonObject
from tnt_exp.config.trainer import Monitor, Select
from tnt_exp.model import Classifier
from tnt_exp.training.checkpoint import Checkpoint, NonFiniteError, all_finite
from tnt_exp.training.optimizer import FlatOptimizer
from tnt_exp.training.train_step import SUMS


@dataclass
class BestWeights:
    """The weights that a run keeps: those of the best epoch on validation, or of the last."""

    select: Select
    patience: int | None  # stop after this many epochs without a better one; None: never
    monitor: Monitor = Monitor.accuracy  # the validation metric by which epochs are compared
    epoch: int = 0  # the one whose weights are kept, from 1
    metrics: dict[str, float] = field(default_factory=dict)  # of that epoch
    weights: list[np.ndarray] = field(default_factory=list)  # the kept values of the classifier's variables
    waiting_since: int = 0  # patience counts from this epoch: the best one, or where the run continued
    _best: tuple[float, float] = (-1.0, 0.0)

    def update(self, epoch: int, metrics: dict[str, float], classifier: Classifier) -> bool:
        """Consider an epoch; return whether to stop early. Without validation the last epoch is kept."""
        # On a small validation set accuracies are often equal: then the lower loss is better; one that is not finite
        # never is, and its epoch is kept only as long as there is no other.
        value = metrics.get(f"val/{self.monitor.value}")
        measured = (value, -metrics["val/loss"]) if value is not None else None
        better = measured is None or (math.isfinite(measured[1]) and measured > self._best)
        if better:
            self._best, self.waiting_since = measured or self._best, epoch
        if better or self.waiting_since == 0 or self.select is Select.last:
            self.epoch, self.metrics = epoch, metrics
            self.weights = _values(classifier.variables)
        return self.patience is not None and epoch - self.waiting_since >= self.patience

    def restore(self, classifier: Classifier) -> None:
        """Assign the kept weights to the classifier."""
        _assign(classifier.variables, self.weights)

    def state_dict(self) -> JsonObject:
        """Return everything but the weights."""
        return {"epoch": self.epoch, "metrics": self.metrics, "best": self._best, "best_epoch": self.waiting_since}

    def load_state_dict(self, state: JsonObject, weights: list[np.ndarray]) -> None:
        """Take over what `state_dict` returned, and the weights."""
        self.epoch, self.metrics, self.weights = state["epoch"], state["metrics"], weights
        self._best, self.waiting_since = tuple(state["best"]), state["best_epoch"]


@dataclass
class Position:
    """How far the run is."""

    epoch: int = 1  # the current one, from 1
    done: int = 0  # its steps that were made
    sums: list[float] = field(default_factory=lambda: [0.0] * len(SUMS))  # `SUMS` over these steps
    seconds: float = 0.0  # their time


@dataclass
class TrainState:
    """The state of a run."""

    classifier: Classifier  # its variables are the weights and the state of random numbers
    optimizer: FlatOptimizer  # its variables are moments, averages and the number of updates
    best: BestWeights
    position: Position = field(default_factory=Position)
    rows: list[dict[str, float]] = field(default_factory=list)  # of `metrics.csv`
    stopped_early: list[int | None] | None = None  # `trainer.epochs` and `trainer.patience` with which it did, if so
    rollbacks: int = 0  # how often the run went back to a checkpoint because something was not finite
    rate_scale: float = 1.0  # factor of the learning rate, lowered by each rollback

    def check_finite(self, step: int) -> None:
        """Raise `NonFiniteError` if a weight is not finite after `step` steps."""
        _check_finite("weights", _values(self.classifier.variables), step)

    def to_checkpoint(self, step: int, extra: JsonObject) -> Checkpoint:
        """Return a copy of everything, with `extra` values of the caller (JSON).

        Raises:
            NonFiniteError: Something is infinite or not a number: no state to continue from.
        """
        state = {  # "choice" are the best weights
            "classifier": _values(self.classifier.variables),
            "optimizer": _values(self.optimizer.variables),
            "choice": self.best.weights,
        }
        for kind, values in state.items():
            _check_finite(f"{kind} state", values, step)
        arrays = {
            f"{kind}/{index:04d}": np.array(value, copy=True)
            for kind, values in state.items()
            for index, value in enumerate(values)
        }
        own = {
            "position": asdict(self.position),
            "rows": self.rows,
            "choice": self.best.state_dict(),
            "stopped_early": self.stopped_early,
            "rollbacks": self.rollbacks,
            "rate_scale": self.rate_scale,
            "counts": {kind: len(values) for kind, values in state.items()},
        }
        return Checkpoint(step, arrays, {**extra, "state": own})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over everything.

        Raises:
            ValueError: The checkpoint is of another network or optimizer; nothing was changed.
        """
        own = checkpoint.values["state"]
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
            _assign(variables, values[kind])
        self.best.load_state_dict(own["choice"], values["choice"])
        self.position = Position(**own["position"])
        self.rows[:] = own["rows"]
        self.stopped_early = own.get("stopped_early")  # missing in a checkpoint of an older version
        self.rollbacks, self.rate_scale = own["rollbacks"], own["rate_scale"]


def _values(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    return [ops.convert_to_numpy(variable) for variable in variables]


def _assign(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _check_finite(what: str, values: Sequence[np.ndarray], step: int) -> None:
    if not all(all_finite(value) for value in values):
        raise NonFiniteError(f"the {what} became infinite or not a number at step {step}.")
