"""One point of a sweep, and what became of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tnt_exp.config import Config
from tnt_exp.run_folder import plain


class TrialState(Enum):
    """What became of a point."""

    waiting = "waiting"  # not run, or interrupted
    finished = "finished"
    failed = "failed"
    pruned = "pruned"  # stopped by the search


@dataclass
class Trial:
    """One point of a sweep.

    Attributes:
        job: Its number, the name of its folder.
        overrides: What it changes, as on the command line.
        params: Swept key: its value here.
        hash: Of the composed configuration.
        trial: Number of the search's trial; points of one trial differ in the seed only.
        work: What it takes beside the others: MACs of an image times epochs; 0: not known.
    """

    job: int
    overrides: list[str]
    params: dict[str, str]
    hash: str
    trial: int | None = None
    work: int = 0

    @property
    def label(self) -> str:
        """`model.embed_dim=48 model.depth=4`: what tells it from the others."""
        return " ".join(f"{key}={value}" for key, value in self.params.items()) or "the only point"


@dataclass
class TrialSpec:
    """A point before it is composed."""

    overrides: list[str]
    params: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """The same for the same overrides in any order."""
        return trial_key(self.overrides)


def trial_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """The same for the same overrides in any order."""
    return tuple(sorted(overrides))


def config_hash(config: Config) -> str:
    """A hash of every value of a configuration."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:16]


def trial_state(result: Mapping[str, Any] | None) -> TrialState:
    """What a point's `result.json` says; None: there is none."""
    if result is None or result.get("cause") == "stopped":
        return TrialState.waiting
    if result["status"] == "FINISHED":
        return TrialState.finished
    if result["status"] == "KILLED" and "cause" not in result:
        return TrialState.waiting  # stopped together with the sweep, which had no time to say so
    return TrialState.pruned if result.get("cause") == "pruned" else TrialState.failed


def objective_value(result: Mapping[str, Any] | None, name: str | None) -> float | None:
    """The objective's value in a result; None where it has none.

    Args:
        result: `result.json`.
        name: A metric, or a number of the result such as `train_seconds`; None: validation accuracy, or test
            accuracy where there is no validation.
    """
    if result is None:
        return None
    values = {**result, **result.get("metrics", {})}
    for key in [name] if name else ["val/accuracy", "test/accuracy"]:
        if isinstance(values.get(key), int | float):
            return float(values[key])
    return None
