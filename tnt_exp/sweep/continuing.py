"""Which sweep folder a command means: a new one, or one that was interrupted.

The rule: the newest sweep beside the new folder that has not come to its end, and all of whose points are points of
this command, goes on. More points in the command are added to it. A sweep that has come to its end is not touched,
unless `sweep.rerun=failed` asks for its failures, or `hydra.sweep.dir=FOLDER` names it.
"""

from pathlib import Path

from omegaconf import DictConfig

from tnt_exp.config.sweep import Rerun
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


def find(config: DictConfig, wanted: set[tuple[str, ...]], rerun: Rerun) -> Books | None:
    """The sweep that goes on; None: a new one begins.

    Args:
        config: Hydra's.
        wanted: Keys of the command's points.
        rerun: Whether a sweep that has come to its end goes on for its failures.
    """
    if any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
        named = folder(config)
        return Books.open(named) if (named / NAME).is_file() else None
    for books in all_sweeps(folder(config).parent):
        if books.data["search"] is None and books.keys() <= wanted and goes_on(books, rerun):
            return books
    return None


def goes_on(books: Books, rerun: Rerun) -> bool:
    """Whether there is anything left to do."""
    if books.data["ended"] is None:
        return True
    return rerun is Rerun.failed and any(books.state(point) is State.failed for point in books.points)
