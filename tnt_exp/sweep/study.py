"""The books of a sweep: one small file in its folder, replaced as a whole.

They hold what is to be run. What became of a point is in its own `result.json`, so nothing here can disagree with it.
"""

# MERGED DOCS:
# """Which sweep folder a command means: a new one, or one that was interrupted.
#
# The rule: the newest sweep beside the new folder that has not come to its end, and all of whose points are points of
# this command, goes on. More points in the command are added to it. A sweep that has come to its end is not touched,
# unless `sweep.rerun=failed` asks for its failures, or `hydra.sweep.dir=FOLDER` names it.
# """

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml
from omegaconf import DictConfig

from tnt_exp.atomic_files import acquire_lock, atomic_write_json, read_json
from tnt_exp.config import Config
from tnt_exp.config.compose import load_config
from tnt_exp.config.sweep import Rerun, SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.preflight import estimate_resources
from tnt_exp.run_folder import plain
from tnt_exp.sweep.trial import Trial, TrialSpec, TrialState, config_hash, trial_key, trial_state

STUDY_FILE = "sweep.json"


class SweepStudy:
    """A sweep folder.

    Args:
        folder: The folder.
        data: What `sweep.json` holds.

    Attributes:
        folder: The folder, absolute.
        points: In the order of their numbers.
    """

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.folder = folder.resolve()
        self.data = data
        self.points = [Trial(**point) for point in data.get("points", [])]
        self._lock: IO[str] | None = None

    @classmethod
    def new(
        cls,
        folder: Path,
        *,
        command: Sequence[str],
        config_dir: str | None,
        search: dict[str, Any] | None,
        objective: str | None,
        direction: str,
    ) -> "SweepStudy":
        """Books of a sweep that begins.

        Args:
            folder: Made here.
            command: What followed `tnt-exp train -m`.
            config_dir: The user's own groups.
            search: What defines a search; None for a grid.
            objective: Metric that is compared; None: the default.
            direction: `maximize` or `minimize`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "command": list(command),
            "config_dir": str(Path(config_dir).resolve()) if config_dir else None,
            "cwd": str(Path.cwd()),
            "created": time.time(),
            "search": search,
            "objective": objective,
            "direction": direction,
            "mlflow": None,
            "ended": None,
            "points": [],
        }
        return cls(folder, data)

    @classmethod
    def open(cls, folder: Path) -> "SweepStudy":
        """Books of a sweep there is.

        Raises:
            UserError: The folder holds none.
        """
        data = read_json(folder / STUDY_FILE)
        if data is None:
            raise UserError(f"{folder}: expected the folder of a sweep (it holds {STUDY_FILE}), received another.")
        return cls(folder, data)

    @property
    def id(self) -> str:
        """The sweep's id, its folder's name."""
        return self.folder.name

    @property
    def maximize(self) -> bool:
        """Whether a larger objective is better."""
        return bool(self.data["direction"] == "maximize")

    def hold(self) -> None:
        """Be the only process that runs this sweep, until it ends.

        Raises:
            UserError: Another one does.
        """
        self._lock = acquire_lock(self.folder / ".lock")
        if self._lock is None:
            raise UserError(
                f"{self.folder}: expected a sweep that nobody runs, received one that is running. "
                f"See it with: tnt-exp sweep status {self.folder}"
            )

    def running(self) -> bool:
        """Whether some process runs this sweep now."""
        found = acquire_lock(self.folder / ".lock")
        if found is not None:
            found.close()
        return found is None

    def add(self, candidate: TrialSpec, config: Config, trial: int | None = None) -> Trial:
        """A new point, its configuration frozen in its folder; `save` makes it part of the sweep."""
        job = len(self.points)
        cost = estimate_resources(config)
        work = cost.macs * config.trainer.epochs if cost else 0
        point = Trial(job, list(candidate.overrides), dict(candidate.params), config_hash(config), trial, work)
        folder = self.folder_of(point)
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
        (folder / "overrides.yaml").write_text(yaml.safe_dump(point.overrides))
        self.points.append(point)
        return point

    def save(self) -> None:
        """Write the file."""
        self.data["points"] = [asdict(point) for point in self.points]
        atomic_write_json(self.folder / STUDY_FILE, self.data)

    def end(self, *, ended: bool) -> None:
        """Say that everything was done, or that there is more to do."""
        self.data["ended"] = time.time() if ended else None
        self.save()

    def folder_of(self, point: Trial) -> Path:
        """The point's run folder."""
        return self.folder / str(point.job)

    def config(self, point: Trial) -> Config:
        """The point's frozen configuration."""
        return load_config(self.folder_of(point) / "config.yaml")

    def result(self, point: Trial) -> dict[str, Any] | None:
        """The point's `result.json`, None where there is none."""
        found: dict[str, Any] | None = read_json(self.folder_of(point) / "result.json")
        return found

    def state(self, point: Trial) -> TrialState:
        """What became of the point."""
        return trial_state(self.result(point))

    def keys(self) -> set[tuple[str, ...]]:
        """What its points are recognised by."""
        return {trial_key(point.overrides) for point in self.points}


def list_studies(root: Path) -> list[SweepStudy]:
    """The sweeps in a folder, newest first."""
    if not root.is_dir():
        return []
    found = [
        SweepStudy.open(Path(entry.path)) for entry in os.scandir(root) if (Path(entry.path) / STUDY_FILE).is_file()
    ]
    return sorted(found, key=lambda books: float(books.data["created"]), reverse=True)


# What is said anew each time, and does not make the sweep.
_PER_START_KEYS = (
    "hydra.mode=",
    "hydra.sweep.dir=",
    "hydra.sweeper.rerun=",
    "hydra.sweeper.dry_run=",
)


def sweep_dir(config: DictConfig) -> Path:
    """The folder that Hydra's configuration names."""
    return Path(config.hydra.sweep.dir)


def sweep_overrides(config: DictConfig) -> list[str]:
    """What the command said about sweeps and launchers, to be said again when the sweep goes on."""
    return [text for text in config.hydra.overrides.hydra if not text.startswith(_PER_START_KEYS)]


def find_grid_to_resume(config: DictConfig, wanted: set[tuple[str, ...]], rerun: Rerun) -> SweepStudy | None:
    """The sweep that goes on; None: a new one begins.

    Args:
        config: Hydra's.
        wanted: Keys of the command's points.
        rerun: Whether a sweep that has come to its end goes on for its failures.

    Raises:
        UserError: The folder that the command names holds a search.
    """
    named = _named_study(config)
    if named is not None:
        if named.data["search"] is not None:
            raise UserError(f"hydra.sweep.dir: expected a grid to go on with, received a search, {named.folder}.")
        return named
    return next(
        (
            books
            for books in _sibling_studies(config)
            if books.data["search"] is None and books.keys() <= wanted and _is_unfinished(books, rerun)
        ),
        None,
    )


def find_search_to_resume(config: DictConfig, defined: dict[str, Any], settings: SweepConfig) -> SweepStudy | None:
    """The search that goes on: the newest with the same definition that lacks trials; None: a new one begins.

    Raises:
        UserError: The folder that the command names holds another search.
    """
    named = _named_study(config)
    if named is not None:
        if named.data["search"] != defined:
            raise UserError(
                f"hydra.sweep.dir: expected the search of {named.folder} (keys, values, seed, parallel, objective), "
                "received another. Its command is in sweep.json."
            )
        return named
    for books in _sibling_studies(config):
        lacks = len(books.data.get("trials", [])) < settings.trials
        if books.data["search"] == defined and (_is_unfinished(books, settings.rerun) or lacks):
            return books
    return None


def _named_study(config: DictConfig) -> SweepStudy | None:
    """The sweep in the folder that the command names, where it names one."""
    if not any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
        return None
    return SweepStudy.open(sweep_dir(config)) if (sweep_dir(config) / STUDY_FILE).is_file() else None


def _sibling_studies(config: DictConfig) -> list[SweepStudy]:
    if any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
        return []
    return list_studies(sweep_dir(config).parent)


def _is_unfinished(books: SweepStudy, rerun: Rerun) -> bool:
    """Whether there is anything left to do."""
    if books.data["ended"] is None:
        return True
    return rerun is Rerun.failed and any(books.state(point) is TrialState.failed for point in books.points)
