"""One run, from a validated configuration to a complete run folder, whatever happens on the way."""

import copy
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.config import Config
from tnt_exp.config.trainer import Distributed
from tnt_exp.credentials import hide_passwords
from tnt_exp.errors import UserError, describe_system_error
from tnt_exp.experiment import Experiment
from tnt_exp.hardware import seconds_since_start
from tnt_exp.run_folder import RunFolder, flat, is_whole_model, parse_number, read_metrics
from tnt_exp.signals import Signals, Stopped
from tnt_exp.tracking.record import is_tracked
from tnt_exp.training import distributed
from tnt_exp.training.checkpoint import CheckpointStore, NonFiniteError
from tnt_exp.training.device import native_messages_in, prepare_device
from tnt_exp.training.distributed import on_process_0

log = logging.getLogger("tnt_exp")

# Keys that may change when a run is resumed: none that its weights depend on, except how long it trains.
MAY_CHANGE_ON_RESUME = (
    "trainer.epochs",
    "trainer.patience",
    "trainer.resume",
    "trainer.profile",
    "trainer.checkpoint",
    "trainer.on_nan",
    "trainer.rollback_factor",
    "trainer.rollbacks",
    "tracking",
)


def run_experiment(
    config: Config,
    *,
    folder: str,
    overrides: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    wait: float = 0.0,
) -> int:
    """Run an experiment, or continue that in the folder; every outcome is written there and logged to MLflow.

    Args:
        config: Composed and validated.
        folder: The run folder.
        overrides: The overrides of the command line; None: those in the folder stay.
        tags: Further tags of the MLflow run; `sweep_id` if it is a trial of a sweep.
        wait: Seconds to wait for another process that uses the folder.

    Returns the exit code: 0 finished, 1 failed, 2 the input cannot be used, 130 SIGINT, 143 SIGTERM, 75 SIGUSR1.
    Raises `UserError` if the folder holds another experiment, or another process uses it, and OSError if it cannot be
    written to.
    """
    logging.raiseExceptions = False  # do not print a traceback if the log cannot be written (a full disk)
    signals = Signals()

    def run(config: Config, folder: str) -> int:
        run_folder = RunFolder(folder)
        with ExitStack() as stack:
            on_process_0(stack.enter_context)(run_folder.held(wait))
            return _run(config, run_folder, overrides, tags or {}, signals)

    try:
        with signals.handled():
            if config.trainer.distributed is Distributed.auto:
                return _run_with_others(run, config, folder)
            return run(config, folder)
    except Stopped as stop:  # before the run began, or a second signal
        return stop.exit_code


def _run_with_others(run: Callable[[Config, str], int], config: Config, folder: str) -> int:
    """Run as one of several processes (`tnt_exp.training.distributed`); return only if all end alike."""
    with native_messages_in(Path(os.devnull)):
        distributed.connect()
    try:
        with tempfile.TemporaryDirectory(prefix="tnt-exp-") as scratch:
            if distributed.process_index() > 0:
                config, folder = copy.deepcopy(config), scratch
                config.tracking.enabled = False
                _log_errors_only()
            prepare_device(config.trainer)  # before the processes exchange anything
            code = run(config, folder)
    except Stopped as stop:
        code = stop.exit_code
    except Exception as error:
        distributed.wait_if_lost(error)
        print(f"tnt-exp: {hide_passwords(describe_system_error(error) or str(error))}", file=sys.stderr)
        code = 2 if isinstance(error, UserError) else 1
    return distributed.leave(code)


def _log_errors_only() -> None:
    """Log nothing to files, and only errors to the terminal: process 0 logs the rest."""
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, logging.FileHandler)]
    log.setLevel(logging.ERROR)


def _run(
    config: Config, run_folder: RunFolder, overrides: Sequence[str] | None, tags: Mapping[str, str], signals: Signals
) -> int:
    begin, before = time.monotonic() - seconds_since_start(), list(run_folder.path.iterdir())
    finished = _finished(run_folder, config)
    if finished:
        log.info("finished before; nothing to do in %s", run_folder.path)
        if config.tracking.enabled and is_tracked(run_folder.path):
            from tnt_exp.tracking.tracker import finalize_run

            finalize_run(run_folder, config, overrides)
        return 0
    previous_result = run_folder.read_result()
    trained_seconds = sum(parse_number(row.get("seconds")) or 0.0 for row in read_metrics(run_folder.path).rows)
    earlier_seconds = max(trained_seconds, previous_result.get("total_seconds", 0.0))
    run_folder.write_config(config, overrides)
    run_folder.remove_result()
    result: JsonObject = {"status": "FAILED", "metrics": {}}
    log.info("run folder %s", run_folder.path)
    experiment = Experiment(config, run_folder, result, signals, dict(tags))
    with native_messages_in(run_folder.log):
        code = _attempt(experiment, result)
    if code == 2 and not experiment.tracker:  # refused before anything was done: leave what was there
        if finished is None:
            run_folder.remove(before)
        elif previous_result or "sweep_id" in tags:  # the sweep reports why its trial was refused
            run_folder.write_result(previous_result or result)
        return code
    with signals.deferred():
        result["total_seconds"] = round(earlier_seconds + time.monotonic() - begin, 3)
        try:
            run_folder.write_result(result)
        except OSError as error:
            code = code or 1
            log.error(describe_system_error(error) or str(error))
        experiment.close()
    if code in (0, 1):
        log.info(experiment.next_steps())
    return code


def _attempt(experiment: Experiment, result: JsonObject) -> int:
    """Train, and record the outcome in `result`."""
    try:
        experiment.train()
    except UserError as error:
        result["error"] = str(error)
        print(f"tnt-exp: {hide_passwords(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stop:
        result |= {"status": "KILLED", "error": str(stop)}
        resume = f"tnt-exp resume {shlex.quote(str(experiment.folder.path))}"
        alone = distributed.process_count() == 1
        log.warning("%s; to continue: %s", stop, resume if alone else "the same command, in all processes")
        return stop.exit_code
    except NonFiniteError as error:
        result["error"] = str(error)
        log.error("the run failed: %s", error)
        return 1
    except Exception as error:
        distributed.wait_if_lost(error)
        known = describe_system_error(error)
        result["error"] = known or f"{type(error).__name__}: {error}"
        if known:
            log.error("the run failed: %s", known)
        else:
            # The traceback goes to the log; the reason is printed last.
            log.exception("the run failed")
        return 1
    result["status"] = "FINISHED"
    return 0


@on_process_0
def _finished(folder: RunFolder, config: Config) -> bool | None:
    """Return whether the folder has a finished run with all epochs, None: no run; another one raises `UserError`."""
    before = folder.read_config()
    if before is None:
        return None
    old, new = flat(before), flat(config)
    differing = [
        f"{key}={new.get(key)} (there: {old.get(key)})"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not key.startswith(MAY_CHANGE_ON_RESUME)
    ]
    if differing:
        raise UserError(
            f"{folder.path}: expected the configuration with which this run began, received another: "
            f"{', '.join(differing)}. Repeat the command, choose another run.name, or add trainer.resume=never."
        )
    trained, epochs = read_metrics(folder.path).epoch, config.trainer.epochs
    if epochs < trained:
        raise UserError(
            f"{folder.path}: expected trainer.epochs of at least the {trained} that were trained, received {epochs}. "
            "Choose another run.name, or add trainer.resume=never."
        )
    # A run that stopped early continues with other epochs or another patience.
    is_same = (epochs, config.trainer.patience) == (before.trainer.epochs, before.trainer.patience)
    if not (is_same or trained == epochs) or folder.read_result().get("status") != "FINISHED":
        return False
    damaged = damaged_files(folder)
    lost = ", ".join(str(file) for file in damaged if folder.checkpoints not in (file, file.parent))
    if lost and folder.checkpoints in damaged:
        raise UserError(
            f"{lost}: lost or damaged, and no checkpoint is left to write it from. Restore it from MLflow's copy, or "
            "train again with trainer.resume=never."
        )
    if lost:
        log.warning("lost or damaged, written again from the last checkpoint: %s", lost)
    return not lost


def damaged_files(folder: RunFolder) -> list[Path]:
    """Return which files of a run are damaged or, if it has finished, lost; a resumed run writes them again.

    Among them is the folder of the checkpoints if none can be read: then there is nothing to write them from.
    """
    names = {"result.json": dict, "mlflow.json": dict, "dataset.json": dict, "provenance/starts.json": list}
    files = {folder.path / name: kind for name, kind in names.items()}
    found = [file for file, kind in files.items() if file.exists() and read_json(file, skip=True, kind=kind) is None]
    if folder.read_result().get("status") != "FINISHED":
        return found
    last = CheckpointStore(folder.checkpoints, keep=1).newest()
    newest = max((file.stem for file in folder.checkpoints.glob("step-*")), default="")
    if last and newest != f"step-{last.step:08d}":
        found.append(folder.checkpoints / f"{newest}.json")
    if not is_whole_model(folder.model):
        found.append(folder.model)
    if read_metrics(folder.path).epoch < (len(last.values["state"]["rows"]) if last else 1):
        found.append(folder.path / "metrics.csv")
    return found if last else [*found, folder.checkpoints]
