"""`tnt-exp run`: run what a run folder's `config.yaml` says, in that folder. A sweep runs each of its points so."""

import argparse
import faulthandler
import logging
import logging.config
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from tnt_exp.config import InputError
from tnt_exp.config.compose import conf_dir, load_config
from tnt_exp.sweep import lifeline
from tnt_exp.sweep.books import NAME, Books
from tnt_exp.sweep.files import lock
from tnt_exp.sweep.story import command


def main(arguments: Sequence[str]) -> int:
    """Run a frozen configuration and return the exit code."""
    parser = argparse.ArgumentParser(prog="tnt-exp run", description="Run the config.yaml of a run folder, there.")
    parser.add_argument("folder", type=Path, help="the run folder")
    parser.add_argument("--supervised", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(list(arguments))
    if options.supervised:
        lifeline.hold()
        faulthandler.enable()  # a crash of native code names its place in the log
    folder = options.folder.resolve()
    file = folder / "config.yaml"
    if not file.is_file():
        raise InputError(f"{folder}: expected a run folder with a config.yaml, received one without.")
    held = lock(folder / ".lock")
    if held is None and options.supervised:
        # On a cluster, a job of an earlier start of the sweep may still be at it.
        print(f"another process runs {folder}: waiting for its end", flush=True)
        held = lock(folder / ".lock", wait=math.inf)
    if held is None:
        raise InputError(f"{folder}: expected a run folder that nobody uses, received one with a running process.")
    with held:
        _log_to(folder)
        from tnt_exp.run import run

        config = load_config(file)
        overrides = folder / "overrides.yaml"
        return run(
            config,
            folder=str(folder),
            overrides=yaml.safe_load(overrides.read_text()) if overrides.exists() else [],
            tags=_tags(folder),
        )


def _tags(folder: Path) -> dict[str, str]:
    """What says in MLflow that the run is one of many."""
    if not (folder.parent / NAME).is_file():
        return {}
    books = Books.open(folder.parent)
    tags = {"sweep_id": books.id, "sweep_job": folder.name}
    point = next((point for point in books.points if str(point.job) == folder.name), None)
    if point:
        tags["command"] = command(point)
    if books.data["mlflow"]:
        tags["mlflow.parentRunId"] = books.data["mlflow"]["run_id"]
    return tags


def _log_to(folder: Path) -> None:
    """Log as `tnt-exp train` does, by the same lines of train.yaml."""
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
