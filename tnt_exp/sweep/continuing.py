"""Which sweep folder a command means: a new one, or one that was interrupted.

The rule: the newest sweep beside the new folder that has not come to its end, and all of whose points are points of
this command, goes on. More points in the command are added to it. A sweep that has come to its end is not touched,
unless `sweep.rerun=failed` asks for its failures, or `hydra.sweep.dir=FOLDER` names it.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tnt_exp.config import InputError
from tnt_exp.config.sweep import Rerun, SweepConfig
from tnt_exp.sweep.books import NAME, Books, all_sweeps
from tnt_exp.sweep.point import State

# What is said anew each time, and does not make the sweep.
_OF_ONE_START = (
    "hydra.mode=",
    "hydra.sweep.dir=",
    "hydra.sweeper.rerun=",
    "hydra.sweeper.dry_run=",
)


def folder(config: DictConfig) -> Path:
    """The folder that Hydra's configuration names."""
    return Path(config.hydra.sweep.dir)


def settings(config: DictConfig) -> list[str]:
    """What the command said about sweeps and launchers, to be said again when the sweep goes on."""
    return [text for text in config.hydra.overrides.hydra if not text.startswith(_OF_ONE_START)]


def grid(config: DictConfig, wanted: set[tuple[str, ...]], rerun: Rerun) -> Books | None:
    """The sweep that goes on; None: a new one begins.

    Args:
        config: Hydra's.
        wanted: Keys of the command's points.
        rerun: Whether a sweep that has come to its end goes on for its failures.

    Raises:
        InputError: The folder that the command names holds a search.
    """
    named = _named(config)
    if named is not None:
        if named.data["search"] is not None:
            raise InputError(f"hydra.sweep.dir: expected a grid to go on with, received a search, {named.folder}.")
        return named
    return next(
        (
            books
            for books in _beside(config)
            if books.data["search"] is None and books.keys() <= wanted and _goes_on(books, rerun)
        ),
        None,
    )


def search(config: DictConfig, defined: dict[str, Any], settings: SweepConfig) -> Books | None:
    """The search that goes on: the newest with the same definition that lacks trials; None: a new one begins.

    Raises:
        InputError: The folder that the command names holds another search.
    """
    named = _named(config)
    if named is not None:
        if named.data["search"] != defined:
            raise InputError(
                f"hydra.sweep.dir: expected the search of {named.folder} (keys, values, seed, parallel, objective), "
                "received another. Its command is in sweep.json."
            )
        return named
    for books in _beside(config):
        lacks = len(books.data.get("trials", [])) < settings.trials
        if books.data["search"] == defined and (_goes_on(books, settings.rerun) or lacks):
            return books
    return None


def _named(config: DictConfig) -> Books | None:
    """The sweep in the folder that the command names, where it names one."""
    if not any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
        return None
    return Books.open(folder(config)) if (folder(config) / NAME).is_file() else None


def _beside(config: DictConfig) -> list[Books]:
    if any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
        return []
    return all_sweeps(folder(config).parent)


def _goes_on(books: Books, rerun: Rerun) -> bool:
    """Whether there is anything left to do."""
    if books.data["ended"] is None:
        return True
    return rerun is Rerun.failed and any(books.state(point) is State.failed for point in books.points)
