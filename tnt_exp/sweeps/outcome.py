"""The outcome of a trial: finished, or the reason why not."""

import signal
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tnt_exp.atomic_files import JsonObject, atomic_write_json, read_json
from tnt_exp.errors import is_out_of_memory


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
    """Return the outcome of a process that has ended.

    Args:
        code: Its return code; negative: the signal that killed it.
        result: The `result.json` that it left; None: it left none.
        order: The outcome with which the executor stopped it; None: the executor did not stop it.
        kernel_ran_out: Whether the kernel has killed any process for lack of memory meanwhile.
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
