"""One run, from a checked configuration to a complete run folder."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psutil

from tnt_exp.config import Config, InputError
from tnt_exp.experiment import Experiment
from tnt_exp.run_folder import RunFolder, flat
from tnt_exp.signals import Signals, Stopped

log = logging.getLogger("tnt_exp")

# What may differ when a run goes on: nothing that its weights depend on, but how long it trains.
_MAY_DIFFER = ("trainer.epochs", "trainer.patience", "trainer.resume", "trainer.checkpoint.", "tracking.")


def run(config: Config, *, folder: str, overrides: Sequence[str], tags: Mapping[str, str] | None = None) -> int:
    """Run an experiment, or go on with it; every ending is written to the run folder and told to MLflow.

    Args:
        config: Composed and checked.
        folder: The run folder; one that is there is continued.
        overrides: What the command line changed.
        tags: Further tags of its MLflow run; `sweep_id` where it is one of many.

    Returns:
        The exit code: 0 finished, 1 failed, 2 the input cannot be used, 130 SIGINT, 143 SIGTERM, 75 SIGUSR1.

    Raises:
        InputError: The folder holds another experiment.
    """
    begin = psutil.Process().create_time()
    run_folder = RunFolder(folder)
    if _finished(run_folder, config):
        log.info("finished before; nothing to do in %s", run_folder.path)
        return 0
    run_folder.write_config(config, overrides)
    run_folder.remove_result()
    result: dict[str, Any] = {"status": "FAILED", "metrics": {}}
    log.info("run folder %s", run_folder.path)
    signals = Signals()
    experiment = Experiment(config, run_folder, result, signals, dict(tags or {}))
    with signals.handled():
        code = _attempt(experiment, result)
        result["total_seconds"] = round(time.time() - begin, 3)
        run_folder.write_result(result)
        experiment.close()
    if code in (0, 1):
        log.info(experiment.where_to_look())
    return code


def _attempt(experiment: Experiment, result: dict[str, Any]) -> int:
    """Train, and say in `result` how it ended."""
    try:
        experiment.train()
    except InputError as error:
        result["error"] = str(error)
        print(f"tnt-exp: {error}", file=sys.stderr)
        return 2
    except Stopped as stop:
        result |= {"status": "KILLED", "error": str(stop)}
        log.warning("%s; the same command goes on from here where the run has a name (run.name=...)", stop)
        return stop.exit_code
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
        # The whole story goes to the log; a person at a terminal is told the reason last.
        log.exception("the run failed")
        return 1
    result["status"] = "FINISHED"
    return 0


def _finished(folder: RunFolder, config: Config) -> bool:
    """Whether the folder's run has all that the configuration asks for.

    Raises:
        InputError: The folder's run has another configuration.
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
        raise InputError(
            f"{folder.path}: expected the configuration that this run began with, received another: "
            f"{', '.join(differing)}. Repeat the command, choose another run.name, or add trainer.resume=never."
        )
    return folder.read_result().get("status") == "FINISHED" and before.trainer.epochs >= config.trainer.epochs
