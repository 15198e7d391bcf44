"""One trial of a sweep, and its state."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from tnt_exp.atomic_files import JsonObject
from tnt_exp.config import Config
from tnt_exp.run_folder import plain


class TrialState(Enum):
    """The state of a trial."""

    waiting = "waiting"  # not run yet, or interrupted
    finished = "finished"
    failed = "failed"
    pruned = "pruned"  # stopped by the search


@dataclass
class Trial:
    """One run of a sweep."""

    job: int  # its number, which is also the name of its folder
    overrides: list[str]  # as on the command line
    params: dict[str, str]  # swept keys and their values in this trial
    hash: str  # of the composed configuration
    trial: int | None = None  # number of the Optuna trial, whose runs differ in the seed only; None in a grid
    work: int = 0  # MACs per image times epochs, to run expensive trials first; 0: unknown

    @property
    def label(self) -> str:
        """The swept values, `model.embed_dim=48 model.depth=4`."""
        return " ".join(f"{key}={value}" for key, value in self.params.items()) or "the only trial"

    @property
    def name(self) -> str:
        """The swept values for the eye, `embed_dim=48 depth=4`: whole keys only where two have one last word."""
        last = [key.rpartition(".")[2] for key in self.params]
        names = [word if last.count(word) == 1 else key for key, word in zip(self.params, last, strict=True)]
        name = " ".join(f"{name}={value}" for name, value in zip(names, self.params.values(), strict=True))
        return name[:250] or f"trial {self.job}"  # MLflow's longest name


@dataclass
class TrialSpec:
    """A trial before its configuration is composed."""

    overrides: list[str]
    params: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """See `trial_key`."""
        return trial_key(self.overrides)


def trial_key(overrides: Sequence[str]) -> tuple[str, ...]:
    """Return a key that is equal for equal overrides in any order."""
    return tuple(sorted(overrides))


def config_hash(config: Config) -> str:
    """Return a hash of all values of a configuration."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()[:16]


def trial_state(result: JsonObject | None) -> TrialState:
    """Return the state that a trial's `result.json` records (None: there is no result)."""
    if result is None or result.get("cause") == "stopped":
        return TrialState.waiting
    if result["status"] == "FINISHED":
        return TrialState.finished
    if result["status"] == "KILLED" and "cause" not in result:
        return TrialState.waiting  # stopped together with the sweep, before the sweep could record the reason
    return TrialState.pruned if result.get("cause") == "pruned" else TrialState.failed


def objective_value(result: JsonObject | None, name: str | None) -> float | None:
    """Return the objective in a result, or None if the result has no such value.

    Args:
        result: The content of `result.json`.
        name: A metric, or a number of the result such as `train_seconds`; None: validation accuracy, or test accuracy
            if there is no validation.
    """
    if result is None:
        return None
    values = {**result, **result.get("metrics", {})}
    for key in [name] if name else ["val/accuracy", "test/accuracy"]:
        if isinstance(values.get(key), int | float):
            return float(values[key])
    return None
