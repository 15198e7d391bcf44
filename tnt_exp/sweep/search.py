"""Random and Bayesian search, on Optuna.

What is asked next is a function of the settings and of the trials before it, so a search that was interrupted goes on
as if it had not been: trial n is asked when all trials up to n - parallel have ended, and knows of exactly those,
whatever others have ended meanwhile; the sampler's seed is made from the search's seed and n. The books hold every
trial; Optuna's own file in the sweep folder (`optuna.log`, for its dashboard) is written anew from them at each start.
"""

import math
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from tnt_exp.check import check
from tnt_exp.config import InputError
from tnt_exp.config.sweep import Method, Rerun, SweepConfig
from tnt_exp.sweep import progress
from tnt_exp.sweep.books import Books
from tnt_exp.sweep.composer import Composer
from tnt_exp.sweep.distributions import distribution, text
from tnt_exp.sweep.point import Candidate, Point, State, hash_of, objective_of
from tnt_exp.sweep.space import Space
from tnt_exp.sweep.story import objective_name

STUDY = "optuna.log"
_SEED = "seed"


class Search:
    """A source of points (see `tnt_exp.sweep.jobs.Source`).

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

    def __init__(self, books: Books, space: Space, settings: SweepConfig, compose: Composer, parallel: int) -> None:
        self._books, self._space, self._settings = books, space, settings
        self._compose, self._parallel = compose, parallel
        self._keys = [key for key in space.swept if not (key == _SEED and space.swept[key].is_discrete_sweep())]
        self._seeds = space.values(_SEED) if _SEED in space.swept and _SEED not in self._keys else [None]
        self._distributions: dict[str, BaseDistribution] = {
            key: distribution(key, space.swept[key]) for key in self._keys
        }
        if not self._keys:
            raise InputError(
                f"sweep={settings.method.name}: expected at least one key with more than one value, received none."
            )
        self._trials: list[dict[str, Any]] = books.data.setdefault("trials", [])
        self._ready: deque[Point] = deque()
        self._asked: set[int] = set()
        self.told = 0
        self.study = self._restore()

    @property
    def total(self) -> int:
        """Points in all, those that ended too."""
        open_ = max(0, self._settings.trials - len(self._trials))
        return len(self._books.points) + open_ * len(self._seeds)

    def next(self) -> Point | None:
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

    def trial_of(self, point: Point) -> FrozenTrial | None:
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
            self.study.tell(trial, value if state is TrialState.COMPLETE else None, state=state)
            self.told += 1

    def ended(self, point: Point) -> None:
        """A point has ended for good."""
        if len(self._trials) >= self._settings.trials:
            self._tell(len(self._trials))

    def _ask(self) -> None:
        number = len(self._trials)
        self.study.sampler = self._sampler(number)
        asked = self.study.ask(self._distributions)
        values = {key: text(asked.params[key]) for key in self._keys}
        trial: dict[str, Any] = {"values": dict(asked.params), "jobs": []}
        self._trials.append(trial)
        hashes = {point.hash: point for point in self._books.points}
        for seed in self._seeds:
            candidate = self._space.candidate(values | ({_SEED: seed} if seed is not None else {}))
            try:
                config = self._compose(candidate.overrides)
                check(config)
            except InputError as error:
                trial["invalid"] = str(error)
                break
            known = hashes.get(hash_of(config))
            point = known or self._books.add(Candidate(candidate.overrides, candidate.params), config, number)
            trial["jobs"].append(point.job)
            if known is None:
                self._ready.append(point)
        self._books.save()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self._settings.seed * 1_000_003 + number) % 2**32
        if self._settings.method is Method.random:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    def _ending(self, number: int) -> tuple[TrialState, float | None] | None:
        """How a trial ended: its state and value; None: it has not."""
        trial = self._trials[number]
        if "invalid" in trial:
            return TrialState.FAIL, None
        points = [self._books.points[job] for job in trial["jobs"]]
        states = [self._books.state(point) for point in points]
        to_come = self._rerun and State.failed in states and not self._asked.issuperset(trial["jobs"])
        if State.waiting in states or to_come:
            return None
        values = [
            value
            for point, state in zip(points, states, strict=True)
            if state is State.finished
            and (value := objective_of(self._books.result(point), self._settings.objective)) is not None
            and math.isfinite(value)
        ]
        if values:
            return TrialState.COMPLETE, sum(values) / len(values)
        if State.pruned in states:
            last = max(self._curve(points[0]).items(), default=None)
            return (TrialState.PRUNED, last[1]) if last else (TrialState.FAIL, None)
        return TrialState.FAIL, None

    @property
    def _rerun(self) -> bool:
        return self._settings.rerun is Rerun.failed

    def _curve(self, point: Point) -> dict[int, float]:
        """Epoch: the objective after it."""
        name = objective_name(self._books)
        rows = progress.read(self._books.folder_of(point)).rows
        found = ((int(float(row["epoch"])), progress.number(row.get(name))) for row in rows)
        return {epoch: value for epoch, value in found if value is not None and math.isfinite(value)}

    def _told_curve(self, number: int) -> dict[int, float]:
        """What a trial's only run has reached after each epoch; nothing where it has several."""
        jobs = self._trials[number]["jobs"]
        return self._curve(self._books.points[jobs[0]]) if len(jobs) == 1 else {}

    def _restore(self) -> optuna.Study:
        """The study that the books tell of, and what of it is still to be run."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = self._books.folder / STUDY
        for left in file.parent.glob(f"{STUDY}*"):  # a lock of a process that was killed, too
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
            state, value = ending or (TrialState.RUNNING, None)
            points = [self._books.points[job] for job in trial["jobs"]]
            study.add_trial(
                optuna.create_trial(
                    state=state,
                    value=value if state is not TrialState.FAIL else None,
                    params=trial["values"],
                    distributions=self._distributions,
                    intermediate_values=self._told_curve(number) if ending else {},
                )
            )
            self.told += ending is not None
            self._ready.extend(point for point in points if self._to_run(point) and point.trial == number)
        return study

    def _to_run(self, point: Point) -> bool:
        state = self._books.state(point)
        return state is State.waiting or (self._rerun and state is State.failed)


def definition(space: Space, settings: SweepConfig, parallel: int) -> dict[str, Any]:
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
