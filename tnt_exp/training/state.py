"""All that changes while a run trains, as one checkpoint and back."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from keras import ops

from tnt_exp.training.checkpoint import Checkpoint
from tnt_exp.training.choice import Choice
from tnt_exp.training.finite import NonFiniteError, finite
from tnt_exp.training.packed import Packed
from tnt_exp.training.step import SUMS


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
class State:
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
    optimizer: Packed
    choice: Choice
    position: Position = field(default_factory=Position)
    rows: list[dict[str, float]] = field(default_factory=list)
    rollbacks: int = 0
    rate_scale: float = 1.0

    def scaled(self, rate: Callable[[int], float]) -> Callable[[int], float]:
        """A learning rate as it is after the rollbacks that there were."""
        return lambda step: rate(step) * self.rate_scale

    def check(self, step: int) -> None:
        """Raise `NonFiniteError` where weights are not finite after this many steps."""
        _check(step, "weights", [ops.convert_to_numpy(variable) for variable in self.classifier.variables])

    def checkpoint(self, step: int, numbers: dict[str, Any]) -> Checkpoint:
        """A copy of everything, with further numbers of the caller.

        Raises:
            NonFiniteError: Something is infinite or not a number: no state to go on from.
        """
        state = self._arrays()
        for kind, values in state.items():
            _check(step, f"{kind} state", values)
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


def _check(step: int, what: str, values: Sequence[np.ndarray]) -> None:
    if not all(finite(value) for value in values):
        raise NonFiniteError(f"the {what} became infinite or not a number at step {step}.")
