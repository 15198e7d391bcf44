"""The study of a sweep: `sweep.json` in the sweep folder lists its trials; which sweep a command resumes.

The file says what is to be run and is always replaced as a whole. What became of a trial is in the trial's own
`result.json`, so the two can never contradict each other.

A command resumes the newest sweep beside the new folder that is not complete and whose trials are all trials of this
command; further trials of the command are added to it. A complete sweep is not touched, unless `sweep.rerun=failed`
asks for its failed trials or `hydra.sweep.dir=FOLDER` names it.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from omegaconf import DictConfig

from tnt_exp.atomic_files import (
    JsonObject,
    acquire_lock,
    atomic_write_json,
    is_unlocked,
    read_json,
    release_lock,
    warn_once,
)
from tnt_exp.config import Config
from tnt_exp.config.compose import load_config
from tnt_exp.config.sweep import Rerun, SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.preflight import estimate_resources
from tnt_exp.run_folder import RunFolder
from tnt_exp.sweeps.trial import Trial, TrialSpec, TrialState, config_hash, trial_state

STUDY_FILE = "sweep.json"


class SweepStudy:
    """A sweep folder; `data` is the content of `sweep.json`, `trials` are in the order of their numbers."""

    def __init__(self, folder: Path, data: JsonObject) -> None:
        self.folder = folder.resolve()
        self.data = data
        self.trials = [Trial(**trial) for trial in data.get("points", [])]
        self._lock: IO[str] | None = None
        self._is_new = False

    @classmethod
    def new(
        cls,
        folder: Path,
        *,
        command: Sequence[str],
        config_dir: str | None,
        search: JsonObject | None,
        objective: str | None,
        direction: str,
    ) -> "SweepStudy":
        """Create the study of a new sweep, and its folder.

        `command` is what was typed after `tnt-exp train -m`, `config_dir` the folder of the user's own config groups,
        `search` the fingerprint of a search (None: a grid), `objective` the metric that trials are compared by (None:
        the default), and `direction` is `maximize` or `minimize`.
        """
        is_new = not folder.exists()
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
        study = cls(folder, data)
        study._is_new = is_new
        return study

    @classmethod
    def open(cls, folder: Path) -> "SweepStudy":
        """Read the study of an existing sweep, or raise `UserError`: the folder holds none, or its file is damaged."""
        data = read_json(folder / STUDY_FILE)
        if data is None:
            raise UserError(f"{folder}: expected the folder of a sweep (it holds {STUDY_FILE}), received another.")
        return cls(folder, data)

    @property
    def id(self) -> str:
        """The id of the sweep: the name of its folder."""
        return self.folder.name

    @property
    def maximize(self) -> bool:
        """True if a larger objective is better."""
        return bool(self.data["direction"] == "maximize")

    @property
    def cwd(self) -> Path:
        """The working folder of the trials: where the sweep began, or where its project was moved or copied to."""
        began = Path(self.data["cwd"])
        is_elsewhere = not self.folder.is_relative_to(began) and self.folder.parents[1].name == "multirun"
        return self.folder.parents[2] if is_elsewhere else began

    def acquire_lock(self) -> None:
        """Make this the only process that runs the sweep, until it ends, and read what others have added.

        Raises `UserError` if another process runs it.
        """
        self._lock = acquire_lock(self.folder / ".lock")
        if self._lock is None:
            raise UserError(
                f"{self.folder}: expected a sweep that no process runs, received one that is running. "
                f"See it with: tnt-exp sweep status {shlex.quote(str(self.folder))}"
            )
        if data := read_json(self.folder / STUDY_FILE):
            latest = SweepStudy(self.folder, data)
            self.data, self.trials = latest.data, latest.trials

    @contextmanager
    def remove_on_error(self) -> Iterator[None]:
        """Remove the folder again if the block fails before a new study was saved: nothing was run there."""
        try:
            yield
        except BaseException:
            if self._lock:
                release_lock(self._lock)
            if self._is_new and not (self.folder / STUDY_FILE).exists():
                RunFolder(self.folder).remove()
            raise

    def is_running(self) -> bool:
        """Return True if a process runs this sweep now."""
        return not is_unlocked(self.folder / ".lock")

    def add_trial(self, spec: TrialSpec, config: Config, search_trial: int | None = None) -> Trial:
        """Create a trial and freeze its configuration in its folder; `save` makes it part of the sweep."""
        job = len(self.trials)
        cost = estimate_resources(config)
        work = cost.macs * config.trainer.epochs if cost else 0
        trial = Trial(job, list(spec.overrides), dict(spec.params), config_hash(config), search_trial, work)
        RunFolder(self.folder_of(trial)).write_config(config, trial.overrides)
        self.trials.append(trial)
        return trial

    def save(self) -> None:
        """Write `sweep.json`."""
        self.data["points"] = [asdict(trial) for trial in self.trials]
        atomic_write_json(self.folder / STUDY_FILE, self.data)

    def mark_complete(self, *, complete: bool) -> None:
        """Record whether every trial was run, and save."""
        self.data["ended"] = time.time() if complete else None
        self.save()

    def folder_of(self, trial: Trial) -> Path:
        """Return the trial's run folder."""
        return self.folder / str(trial.job)

    def config(self, trial: Trial) -> Config:
        """Return the trial's frozen configuration."""
        return load_config(self.folder_of(trial) / "config.yaml")

    def result(self, trial: Trial) -> JsonObject | None:
        """Return the trial's `result.json`, or None if there is none; a damaged one is reported and counts as none."""
        found: JsonObject | None = read_json(self.folder_of(trial) / "result.json", skip=True)
        return found

    def state(self, trial: Trial) -> TrialState:
        """Return the state of the trial."""
        return trial_state(self.result(trial))

    def pending_trials(self, rerun: Rerun) -> list[Trial]:
        """Return the trials to run: those that have not ended, and those that failed if they are to be run again."""
        wanted = {TrialState.waiting} | ({TrialState.failed} if rerun is Rerun.failed else set())
        return [trial for trial in self.trials if self.state(trial) in wanted]

    def override_keys(self) -> set[tuple[str, ...]]:
        """Return the keys (see `TrialSpec.key`) of all trials."""
        return {TrialSpec(trial.overrides).key for trial in self.trials}


def list_studies(root: Path) -> list[SweepStudy]:
    """Return the sweeps in a folder, newest first; a damaged one is reported and skipped."""
    found = []
    for file in root.glob(f"*/{STUDY_FILE}"):
        try:
            found.append(SweepStudy.open(file.parent))
        except (OSError, UserError) as error:
            warn_once(f"skipped: {error}")
    return sorted(found, key=lambda study: float(study.data["created"]), reverse=True)


# Overrides that belong to one start of a sweep, not to the sweep.
_PER_START_KEYS = ("hydra.mode=", "hydra.sweep.dir=", "hydra.sweeper.rerun=", "hydra.sweeper.dry_run=")


def sweep_overrides(config: DictConfig) -> list[str]:
    """Return the overrides of sweeper and launcher in the command, to be repeated when the sweep is resumed."""
    kept = [text for text in config.hydra.overrides.hydra if not text.startswith(_PER_START_KEYS)]
    return list({text.partition("=")[0]: text for text in kept}.values())  # of two for one key the last one counts


def find_grid_to_resume(config: DictConfig, wanted: set[tuple[str, ...]], rerun: Rerun) -> SweepStudy | None:
    """Return the grid to resume, or None if a new one begins; `wanted` are the keys of the command's trials.

    Raises `UserError` if the folder that the command names holds a search.
    """
    named, siblings = _candidates(config)
    if named is not None and named.data["search"] is not None:
        raise UserError(f"hydra.sweep.dir: expected a grid to resume, received a search, {named.folder}.")
    for study in siblings:
        if study.data["search"] is None and study.override_keys() <= wanted and _is_unfinished(study, rerun):
            return study
    return named


def find_search_to_resume(config: DictConfig, fingerprint: JsonObject, settings: SweepConfig) -> SweepStudy | None:
    """Return the search to resume: the newest with the same fingerprint that lacks trials. None: a new one begins.

    Raises `UserError` if the folder that the command names holds another search.
    """
    named, siblings = _candidates(config)
    if named is not None and named.data["search"] != fingerprint:
        raise UserError(
            f"hydra.sweep.dir: expected the search of {named.folder} (keys, values, seed, parallel, objective), "
            "received another. Its command is in sweep.json."
        )
    for study in siblings:
        lacks = len(study.data.get("trials", [])) < settings.trials
        if study.data["search"] == fingerprint and (_is_unfinished(study, settings.rerun) or lacks):
            return study
    return named


def _candidates(config: DictConfig) -> tuple[SweepStudy | None, list[SweepStudy]]:
    """Return the sweep in the folder that the command names; if it names none, all sweeps beside the new folder."""
    folder = Path(config.hydra.sweep.dir)
    if not any(text.startswith("hydra.sweep.dir=") for text in config.hydra.overrides.hydra):
        return None, list_studies(folder.parent)
    return SweepStudy.open(folder) if (folder / STUDY_FILE).is_file() else None, []


def _is_unfinished(study: SweepStudy, rerun: Rerun) -> bool:
    """Return True if there is anything left to run."""
    if study.data["ended"] is None:
        return True
    return rerun is Rerun.failed and any(study.state(trial) is TrialState.failed for trial in study.trials)
