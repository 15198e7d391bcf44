"""`tnt-exp run`: run the `config.yaml` of a run folder, in that folder. A sweep runs each of its trials this way."""

import faulthandler
import logging
import logging.config
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from tnt_exp.cli import ArgumentParser
from tnt_exp.config.compose import conf_dir, load_config
from tnt_exp.finished_runs import apply_overrides
from tnt_exp.run import MAY_CHANGE_ON_RESUME, run_experiment
from tnt_exp.sweeps import fork_server, worker
from tnt_exp.sweeps.results import rerun_command
from tnt_exp.sweeps.study import STUDY_FILE, SweepStudy


def main(arguments: Sequence[str]) -> int:
    """Run a frozen configuration and return the exit code."""
    parser = ArgumentParser(prog="tnt-exp run", description="Run the config.yaml of a run folder, there.")
    parser.add_argument("folder", type=Path, nargs="?", help="the run folder")
    parser.add_argument("--supervised", action="store_true", help="end when standard input is closed")
    parser.add_argument("--fork-server", nargs=2, metavar=("BACKEND", "CONNECTION"), help="for the trials of a sweep")
    options = parser.parse_args(list(arguments))
    if options.fork_server:
        backend, connection = options.fork_server
        fork_server.preload(backend)
        request = fork_server.serve(int(connection))
        return main(request["arguments"]) if request else 0
    if options.folder is None:
        parser.error("expected a run folder")
    if options.supervised:
        worker.exit_with_parent()
        faulthandler.enable()  # a crash of native code leaves a stack trace in the log
    # On a cluster, a job of an earlier start of the sweep may still be running in the folder.
    return run_folder_config(options.folder.resolve(), wait=math.inf if options.supervised else 0.0)


def run_folder_config(folder: Path, wait: float = 0.0, overrides: Sequence[str] = ()) -> int:
    """Run the `config.yaml` of a run folder (absolute), in that folder, and return the exit code.

    Waits at most `wait` seconds for another process that uses it. Raises `UserError` if it is not a run folder, another
    process still uses it, or a key of `overrides` may not change on resume.
    """
    config = apply_overrides(load_config(folder / "config.yaml"), overrides, MAY_CHANGE_ON_RESUME)
    configure_logging(folder)
    return run_experiment(config, folder=str(folder), tags=_tags(folder), wait=wait)


def _tags(folder: Path) -> dict[str, str]:
    """Return the MLflow tags of a trial of a sweep."""
    if not (folder.parent / STUDY_FILE).is_file():
        return {}
    study = SweepStudy.open(folder.parent)
    tags = {"sweep_id": study.id, "sweep_job": folder.name}
    trial = next((trial for trial in study.trials if str(trial.job) == folder.name), None)
    if trial:
        tags |= {"command": rerun_command(trial), "mlflow.runName": trial.name}
    if study.data["mlflow"]:
        tags["mlflow.parentRunId"] = study.data["mlflow"]["run_id"]
    return tags


def configure_logging(folder: Path) -> None:
    """Configure logging as `tnt-exp train` does, from the same lines of train.yaml."""
    logs = yaml.safe_load((conf_dir() / "train.yaml").read_text())["hydra"]["job_logging"]
    console = {"class": "logging.StreamHandler", "formatter": "simple", "stream": "ext://sys.stdout"}
    file = {**logs["handlers"]["file"], "class": "logging.FileHandler", "filename": str(folder / "train.log")}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": logs["formatters"],
            "handlers": {"console": console, "file": file},
            "root": {"level": "INFO", "handlers": ["console", "file"]},
        }
    )
