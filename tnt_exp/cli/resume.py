"""`tnt-exp resume`: continue a run, by its folder or its MLflow id."""

import os
from collections.abc import Sequence
from pathlib import Path

from tnt_exp import provenance
from tnt_exp.cli import ArgumentParser
from tnt_exp.cli.run import run_folder_config
from tnt_exp.finished_runs.find import find_run_folder


def main(arguments: Sequence[str]) -> int:
    """Continue the run with its own configuration, and return the exit code."""
    parser = ArgumentParser(
        prog="tnt-exp resume", description="Continue a run from its newest checkpoint, with its own configuration."
    )
    parser.add_argument("run", help="a run folder, the name of a run, or an MLflow run id")
    parser.add_argument(
        "overrides", nargs="*", default=[], help="keys that may change: trainer.epochs=80, trainer.patience, tracking"
    )
    parser.add_argument("--uri", help="tracking store to ask for an id (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    folder = find_run_folder(options.run, options.uri)
    chdir_to_start_dir(folder)
    return run_folder_config(folder, overrides=options.overrides)


def chdir_to_start_dir(folder: Path) -> None:
    """Change to the folder in which a run was started, or to where its project was moved: paths count from there."""
    for there in provenance.working_folders(folder)[:1]:
        os.chdir(there)
