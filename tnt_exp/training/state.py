"""All that changes while a run trains, as one checkpoint and back."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from keras import ops

from tnt_exp.training.checkpoint import Checkpoint
from tnt_exp.training.choice import Choice
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
    """

    classifier: Any
    optimizer: Any
    choice: Choice
    position: Position = field(default_factory=Position)
    rows: list[dict[str, float]] = field(default_factory=list)

    def checkpoint(self, step: int, numbers: dict[str, Any]) -> Checkpoint:
        """A copy of everything, with further numbers of the caller."""
        arrays = {
            f"{kind}/{index:04d}": np.array(value, copy=True)
            for kind, values in self._arrays().items()
            for index, value in enumerate(values)
        }
        own = {
            "position": asdict(self.position),
            "rows": self.rows,
            "choice": self.choice.numbers(),
            "counts": {kind: len(values) for kind, values in self._arrays().items()},
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
        self.position = Position(**own["position"])
        self.rows[:] = own["rows"]

    def _arrays(self) -> dict[str, list[np.ndarray]]:
        return {
            "classifier": [ops.convert_to_numpy(variable) for variable in self.classifier.variables],
            "optimizer": [ops.convert_to_numpy(variable) for variable in self.optimizer.variables],
            "choice": self.choice.weights,
        }
