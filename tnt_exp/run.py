"""One run, from a checked configuration to a complete run folder."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from tnt_exp.config import Config
from tnt_exp.errors import UserError, describe_system_error
from tnt_exp.experiment import Experiment
from tnt_exp.run_folder import RunFolder, flat
from tnt_exp.signals import Signals, Stopped
from tnt_exp.training.checkpoint import NonFiniteError

log = logging.getLogger("tnt_exp")

# What may differ when a run goes on: nothing that its weights depend on, but how long it trains.
_MAY_DIFFER = (
    "trainer.epochs",
    "trainer.patience",
    "trainer.resume",
    "trainer.profile",
    "trainer.checkpoint.",
    "trainer.on_nan",
    "trainer.rollback",
    "tracking.",
)


def run_experiment(
    config: Config,
    *,
    folder: str,
    overrides: Sequence[str],
    tags: Mapping[str, str] | None = None,
    wait: float = 0.0,
) -> int:
    """Run an experiment, or go on with it; every ending is written to the run folder and told to MLflow.

    Args:
        config: Composed and checked.
        folder: The run folder; one that is there is continued.
        overrides: What the command line changed.
        tags: Further tags of its MLflow run; `sweep_id` where it is one of many.
        wait: Seconds to wait for another process that uses the folder.

    Returns:
        The exit code: 0 finished, 1 failed, 2 the input cannot be used, 130 SIGINT, 143 SIGTERM, 75 SIGUSR1.

    Raises:
        UserError: The folder holds another experiment, or another process uses it.
        OSError: The folder cannot be written to.
    """
    logging.raiseExceptions = False  # a log that cannot be written (a full disk) is no reason to print a traceback
    run_folder, signals = RunFolder(folder), Signals()
    try:
        with signals.handled(), run_folder.held(wait):
            return _run(config, run_folder, overrides, tags or {}, signals)
    except Stopped as stop:  # before there was anything to mark, or a second time
        return stop.exit_code


def _run(
    config: Config, run_folder: RunFolder, overrides: Sequence[str], tags: Mapping[str, str], signals: Signals
) -> int:
    begin = psutil.Process().create_time()
    if _finished(run_folder, config):
        log.info("finished before; nothing to do in %s", run_folder.path)
        if config.tracking.enabled and run_folder.read_tracking():
            from tnt_exp.tracking import finalize_run

            finalize_run(run_folder.path, "FINISHED")
        return 0
    run_folder.write_config(config, overrides)
    run_folder.remove_result()
    result: dict[str, Any] = {"status": "FAILED", "metrics": {}}
    log.info("run folder %s", run_folder.path)
    experiment = Experiment(config, run_folder, result, signals, dict(tags))
    code = _attempt(experiment, result)
    with signals.deferred():
        result["total_seconds"] = round(time.time() - begin, 3)
        try:
            run_folder.write_result(result)
        except OSError as error:
            code = code or 1
            log.error(describe_system_error(error) or str(error))
        experiment.close()
    if code in (0, 1):
        log.info(experiment.next_steps())
    return code


def _attempt(experiment: Experiment, result: dict[str, Any]) -> int:
    """Train, and say in `result` how it ended."""
    try:
        experiment.train()
    except UserError as error:
        result["error"] = str(error)
        print(f"tnt-exp: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        result |= {"status": "KILLED", "error": str(stop)}
        log.warning("%s; the same command goes on from here where the run has a name (run.name=...)", stop)
        return stop.exit_code
    except NonFiniteError as error:
        result["error"] = str(error)
        log.error("the run failed: %s", error)
        return 1
    except Exception as error:
        known = describe_system_error(error)
        result["error"] = known or f"{type(error).__name__}: {error}"
        if known:
            log.error("the run failed: %s", known)
        else:
            # The whole story goes to the log; a person at a terminal is told the reason last.
            log.exception("the run failed")
        return 1
    result["status"] = "FINISHED"
    return 0


def _finished(folder: RunFolder, config: Config) -> bool:
    """Whether the folder's run has all that the configuration asks for.

    Raises:
        UserError: The folder's run has another configuration.
    """
    before = folder.read_config()
    if before is None:
        return False
    old, new = flat(before), flat(config)
    differing = [
        f"{key}={new.get(key)} (there: {old.get(key)})"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not key.startswith(_MAY_DIFFER)
    ]
    if differing:
        raise UserError(
            f"{folder.path}: expected the configuration that this run began with, received another: "
            f"{', '.join(differing)}. Repeat the command, choose another run.name, or add trainer.resume=never."
        )
    return folder.read_result().get("status") == "FINISHED" and before.trainer.epochs >= config.trainer.epochs
