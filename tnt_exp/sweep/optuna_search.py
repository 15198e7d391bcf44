"""Random and Bayesian search, on Optuna.

What is asked next is a function of the settings and of the trials before it, so a search that was interrupted goes on
as if it had not been: trial n is asked when all trials up to n - parallel have ended, and knows of exactly those,
whatever others have ended meanwhile; the sampler's seed is made from the search's seed and n. The books hold every
trial; Optuna's own file in the sweep folder (`optuna.log`, for its dashboard) is written anew from them at each start.
"""

# MERGED DOCS:
# """Stop the jobs that a search has given up."""

import math
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tnt_exp import run_folder
from tnt_exp.config.sweep import Method, Rerun, SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.preflight import preflight
from tnt_exp.sweep.outcome import FailureReason, Outcome
from tnt_exp.sweep.plan import TrialComposer
from tnt_exp.sweep.results import objective_name
from tnt_exp.sweep.search_space import SearchSpace, format_override_value, make_distribution
from tnt_exp.sweep.study import SweepStudy
from tnt_exp.sweep.trial import Trial, TrialSpec, TrialState, config_hash, objective_value
from tnt_exp.sweep.worker import JobProcess

OPTUNA_STUDY = "optuna.log"

_SEED = "seed"


class OptunaSearch:
    """A source of points (see `tnt_exp.sweep.scheduler.TrialSource`).

    Args:
        books: The sweep; `trials` in its data are this search's.
        space: What is searched. A list of seeds is not: each trial is run with each.
        settings: How.
        compose: Composes points.
        parallel: Trials under way at once.

    Attributes:
        told: Trials whose ending the sampler knows.
        study: Optuna's.
    """

    def __init__(
        self, books: SweepStudy, space: SearchSpace, settings: SweepConfig, compose: TrialComposer, parallel: int
    ) -> None:
        self._books, self._space, self._settings = books, space, settings
        self._compose, self._parallel = compose, parallel
        self._keys = [key for key in space.swept if not (key == _SEED and space.swept[key].is_discrete_sweep())]
        self._seeds = space.values(_SEED) if _SEED in space.swept and _SEED not in self._keys else [None]
        self._distributions: dict[str, BaseDistribution] = {
            key: make_distribution(key, space.swept[key]) for key in self._keys
        }
        if not self._keys:
            raise UserError(
                f"sweep={settings.method.name}: expected at least one key with more than one value, received none."
            )
        self._trials: list[dict[str, Any]] = books.data.setdefault("trials", [])
        self._ready: deque[Trial] = deque()
        self._asked: set[int] = set()
        self.told = 0
        self.study = self._restore()

    @property
    def total(self) -> int:
        """Points in all, those that ended too."""
        open_ = max(0, self._settings.trials - len(self._trials))
        return len(self._books.points) + open_ * len(self._seeds)

    def next(self) -> Trial | None:
        """The next point that can start now."""
        while not self._ready:
            number = len(self._trials)
            if number >= self._settings.trials:
                return None
            due = number - self._parallel + 1
            self._tell(due)
            if self.told < due:
                return None
            self._ask()
        point = self._ready.popleft()
        self._asked.add(point.job)
        return point

    def trial_of(self, point: Trial) -> FrozenTrial | None:
        """The trial of a point that runs alone for it; None where other seeds run too."""
        number = next((n for n, trial in enumerate(self._trials) if point.job in trial["jobs"]), None)
        if number is None or len(self._trials[number]["jobs"]) > 1:
            return None
        return self.study.trials[number]

    def _tell(self, due: int) -> None:
        """Tell the sampler of the first `due` trials, in their order, as far as they have ended."""
        while self.told < due:
            ending = self._ending(self.told)
            if ending is None:
                return
            state, value = ending
            frozen = self.study.trials[self.told]
            trial = optuna.trial.Trial(self.study, frozen._trial_id)
            for epoch, reached in self._told_curve(self.told).items():
                if epoch not in frozen.intermediate_values:
                    trial.report(reached, epoch)
            self.study.tell(trial, value if state is OptunaState.COMPLETE else None, state=state)
            self.told += 1

    def ended(self, point: Trial) -> None:
        """A point has ended for good."""
        if len(self._trials) >= self._settings.trials:
            self._tell(len(self._trials))

    def _ask(self) -> None:
        number = len(self._trials)
        self.study.sampler = self._sampler(number)
        asked = self.study.ask(self._distributions)
        values = {key: format_override_value(asked.params[key]) for key in self._keys}
        trial: dict[str, Any] = {"values": dict(asked.params), "jobs": []}
        self._trials.append(trial)
        hashes = {point.hash: point for point in self._books.points}
        for seed in self._seeds:
            candidate = self._space.candidate(values | ({_SEED: seed} if seed is not None else {}))
            try:
                config = self._compose(candidate.overrides)
                preflight(config)
            except UserError as error:
                trial["invalid"] = str(error)
                break
            known = hashes.get(config_hash(config))
            point = known or self._books.add(TrialSpec(candidate.overrides, candidate.params), config, number)
            trial["jobs"].append(point.job)
            if known is None:
                self._ready.append(point)
        self._books.save()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self._settings.seed * 1_000_003 + number) % 2**32
        if self._settings.method is Method.random:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    def _ending(self, number: int) -> tuple[OptunaState, float | None] | None:
        """How a trial ended: its state and value; None: it has not."""
        trial = self._trials[number]
        if "invalid" in trial:
            return OptunaState.FAIL, None
        points = [self._books.points[job] for job in trial["jobs"]]
        states = [self._books.state(point) for point in points]
        to_come = self._rerun and TrialState.failed in states and not self._asked.issuperset(trial["jobs"])
        if TrialState.waiting in states or to_come:
            return None
        values = [
            value
            for point, state in zip(points, states, strict=True)
            if state is TrialState.finished
            and (value := objective_value(self._books.result(point), self._settings.objective)) is not None
            and math.isfinite(value)
        ]
        if values:
            return OptunaState.COMPLETE, sum(values) / len(values)
        if TrialState.pruned in states:
            last = max(self._curve(points[0]).items(), default=None)
            return (OptunaState.PRUNED, last[1]) if last else (OptunaState.FAIL, None)
        return OptunaState.FAIL, None

    @property
    def _rerun(self) -> bool:
        return self._settings.rerun is Rerun.failed

    def _curve(self, point: Trial) -> dict[int, float]:
        """Epoch: the objective after it."""
        name = objective_name(self._books)
        rows = run_folder.read_metrics(self._books.folder_of(point)).rows
        found = ((int(float(row["epoch"])), run_folder.parse_number(row.get(name))) for row in rows)
        return {epoch: value for epoch, value in found if value is not None and math.isfinite(value)}

    def _told_curve(self, number: int) -> dict[int, float]:
        """What a trial's only run has reached after each epoch; nothing where it has several."""
        jobs = self._trials[number]["jobs"]
        return self._curve(self._books.points[jobs[0]]) if len(jobs) == 1 else {}

    def _restore(self) -> optuna.Study:
        """The study that the books tell of, and what of it is still to be run."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = self._books.folder / OPTUNA_STUDY
        for left in file.parent.glob(f"{OPTUNA_STUDY}*"):  # a lock of a process that was killed, too
            left.unlink()
        study = optuna.create_study(
            storage=_storage(file),
            study_name=self._books.id,
            direction="maximize" if self._books.maximize else "minimize",
            sampler=self._sampler(0),
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=self._settings.pruning_epochs),
        )
        known = len(self._trials) - self._parallel
        for number, trial in enumerate(self._trials):
            ending = self._ending(number) if number < known and self.told == number else None
            state, value = ending or (OptunaState.RUNNING, None)
            points = [self._books.points[job] for job in trial["jobs"]]
            study.add_trial(
                optuna.create_trial(
                    state=state,
                    value=value if state is not OptunaState.FAIL else None,
                    params=trial["values"],
                    distributions=self._distributions,
                    intermediate_values=self._told_curve(number) if ending else {},
                )
            )
            self.told += ending is not None
            self._ready.extend(point for point in points if self._to_run(point) and point.trial == number)
        return study

    def _to_run(self, point: Trial) -> bool:
        state = self._books.state(point)
        return state is TrialState.waiting or (self._rerun and state is TrialState.failed)


def search_fingerprint(space: SearchSpace, settings: SweepConfig, parallel: int) -> dict[str, Any]:
    """What makes it this search and no other: a command with the same goes on with it."""
    return {
        "method": settings.method.name,
        "seed": settings.seed,
        "parallel": parallel,
        "objective": settings.objective,
        "direction": settings.direction.name,
        "pruning": settings.pruning_epochs if settings.pruning else None,
        "fixed": sorted(space.fixed.values()),
        "space": {key: space.text(key) for key in sorted(space.swept)},
    }


def _storage(file: Path) -> optuna.storages.BaseStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.JournalStorage(JournalFileBackend(str(file)))


_CHECK_INTERVAL = 1.0  # seconds


class PruningMonitor:
    """Reports the epochs of running jobs to Optuna and stops those that it would prune.

    Args:
        search: The search.
        metric: What is compared, a column of `metrics.csv`.
    """

    def __init__(self, search: OptunaSearch, metric: str) -> None:
        self._search = search
        self._metric = metric
        self._next = 0.0
        self._reported: dict[int, int] = {}

    def look(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Once a second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _CHECK_INTERVAL
        for point, process in running.values():
            frozen = self._search.trial_of(point)
            if frozen is not None:
                self._compare(point, process, optuna.trial.Trial(self._search.study, frozen._trial_id))

    def _compare(self, point: Trial, process: JobProcess, trial: optuna.trial.Trial) -> None:
        done = self._reported.get(point.job, 0)
        for row in run_folder.read_metrics(process.folder).rows[done:]:
            done += 1
            value = run_folder.parse_number(row.get(self._metric))
            if value is None:
                continue
            epoch = int(float(row["epoch"]))
            trial.report(value, epoch)
            if trial.should_prune():
                process.stop(
                    Outcome(FailureReason.pruned, f"{self._metric} {value:.4f} after epoch {epoch}: below the median")
                )
                break
        self._reported[point.job] = done
