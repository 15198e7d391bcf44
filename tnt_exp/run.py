"""One run, from a checked configuration to a complete run folder."""

import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import psutil

from tnt_exp.config import Config, InputError
from tnt_exp.experiment import Experiment
from tnt_exp.run_folder import RunFolder

log = logging.getLogger("tnt_exp")


class Terminated(BaseException):
    """SIGTERM arrived."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        exit_code: 0 finished, 1 failed, 2 the input cannot be used, 130 SIGINT, 143 SIGTERM.
        objective: What a sweep compares: validation accuracy, or test accuracy where there is no validation.
    """

    exit_code: int
    objective: float | None


def run(config: Config, *, folder: str, overrides: Sequence[str], sweep_folder: str | None) -> Outcome:
    """Run an experiment; every ending is written to the run folder and told to MLflow.

    Args:
        config: Composed and checked.
        folder: The run folder.
        overrides: What the command line changed.
        sweep_folder: The sweep's folder, where this is one of many.
    """
    begin = time.time() if sweep_folder else psutil.Process().create_time()
    run_folder = RunFolder(folder)
    run_folder.write_config(config, overrides)
    result: dict[str, Any] = {"status": "FAILED", "metrics": {}}
    log.info("run folder %s", run_folder.path)
    experiment = Experiment(config, run_folder, result, sweep_folder)
    try:
        with _sigterm_raises():
            experiment.train()
        result["status"] = "FINISHED"
        code = 0
    except InputError as error:
        result["error"] = str(error)
        print(f"tnt-exp: {error}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, Terminated) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else 143
        name = "SIGINT" if code == 130 else "SIGTERM"
        result |= {"status": "KILLED", "error": f"stopped by {name}"}
        log.warning("stopped by %s", name)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
        # The whole story goes to the log; a person at a terminal is told the reason last.
        log.exception("the run failed")
        code = 1
    result["total_seconds"] = round(time.time() - begin, 3)
    run_folder.write_result(result)
    experiment.close()
    if code in (0, 1):
        log.info(experiment.where_to_look())
    if result["status"] == "KILLED" and code == 130 and sweep_folder:
        raise KeyboardInterrupt  # Ctrl-C ends the whole sweep
    if code == 143 and sweep_folder:
        raise SystemExit(code)
    metrics = result["metrics"]
    return Outcome(code, metrics.get("val/accuracy", metrics.get("test/accuracy")))


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
