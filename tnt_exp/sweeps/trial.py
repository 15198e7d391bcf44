"""One trial of a sweep, its state, and its outcome: finished, or the reason why not."""

import hashlib
import json
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tnt_exp.atomic_files import JsonObject, atomic_write_json, read_json
from tnt_exp.config import Config
from tnt_exp.errors import is_out_of_memory
from tnt_exp.formatting import as_number, format_params
from tnt_exp.run_folder import plain

VALIDATION, TEST = "val/accuracy", "test/accuracy"  # the objective, and the one without validation images


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
        return format_params(self.params) or "the only trial"

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
        """A key that is equal for equal overrides in any order."""
        return tuple(sorted(self.overrides))


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
    """Return the objective in the content of `result.json`, or None if it has no such finite number.

    The name is that of a metric, or of a number of the result such as `train_seconds`; None: validation accuracy, or
    test accuracy if there is no validation.
    """
    found = (result_number(result or {}, each) for each in ([name] if name else [VALIDATION, TEST]))
    return next((as_number(value) for value in found if value is not None), None)


def result_number(result: JsonObject, name: str) -> float | None:
    """Return a metric or another number of the content of `result.json`, also one that is not finite, or None."""
    value = {**result, **result.get("metrics", {})}.get(name)
    return value if isinstance(value, int | float) else None


def default_objective(results: Iterable[JsonObject | None]) -> str:
    """Return what trials are compared by if nothing is named: validation accuracy if all that finished have it."""
    found = [each.get("metrics") for each in results if each and trial_state(each) is TrialState.finished]
    return TEST if any(metrics and VALIDATION not in metrics for metrics in found) else VALIDATION


class FailureReason(Enum):
    """Why a trial did not finish."""

    error = "error"  # an exception, or input that cannot be used
    exit = "exit"  # the process ended without a result
    signal = "signal"  # killed from outside, or a crash of native code
    memory = "memory"  # out of memory
    timeout = "timeout"  # launcher.timeout
    pruned = "pruned"  # stopped by the search
    stopped = "stopped"  # stopped together with the sweep
    lost = "lost"  # the launcher returned without a result


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    cause: FailureReason | None  # None: the trial finished
    error: str | None = None  # one line

    @property
    def status(self) -> str:
        """The status of its MLflow run."""
        if self.cause is None:
            return "FINISHED"
        return "FAILED" if self.cause in (FailureReason.error, FailureReason.exit) else "KILLED"


def from_exit_code(code: int, result: JsonObject | None, order: Outcome | None, kernel_ran_out: bool) -> Outcome:
    """Return the outcome of a process that has ended; a negative code is the signal that killed it.

    `result` is the `result.json` that it left, and `order` the outcome with which the executor stopped it, if any.
    `kernel_ran_out` is whether the kernel has killed any process for lack of memory meanwhile.
    """
    if result is not None and result["status"] == "FINISHED":
        return Outcome(None)
    if order is not None:
        return order
    if result is not None and result["status"] == "FAILED":
        error = str(result.get("error"))
        return Outcome(FailureReason.memory if is_out_of_memory(error) else FailureReason.error, error)
    if code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and kernel_ran_out:
            return Outcome(FailureReason.memory, "killed by the kernel: out of memory")
        return Outcome(FailureReason.signal, f"killed by {name}")
    if result is not None:
        return Outcome(FailureReason.signal, str(result.get("error", "killed")))
    return Outcome(FailureReason.exit, f"the process ended with code {code} and left no result (sys.exit or os._exit)")


def write_outcome(folder: Path, outcome: Outcome, seconds: float) -> None:
    """Add to `result.json` what only the executor knows: the reason of a failure."""
    if outcome.cause is None:
        return
    file = folder / "result.json"
    result = read_json(file, skip=True) or {"metrics": {}, "total_seconds": round(seconds, 3)}
    atomic_write_json(file, {**result, "status": outcome.status, "cause": outcome.cause.value, "error": outcome.error})


def read_outcome(result: JsonObject | None) -> Outcome:
    """Return the outcome that a `result.json` records (None: the result was lost)."""
    if result is None:
        return Outcome(FailureReason.lost, "the launcher returned without a result")
    if result["status"] == "FINISHED":
        return Outcome(None)
    return Outcome(FailureReason(result.get("cause", "error")), result.get("error"))


def oom_kill_count() -> int:
    """Return how many processes the kernel has killed for lack of memory since boot; 0 if it does not report it."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
