"""Random and Bayesian search with Optuna, and pruning.

What is asked next depends only on the settings and on the results of earlier trials, so that an interrupted search
continues as if it had not been interrupted: trial n is asked for when all trials up to n - parallel have ended, and the
sampler knows exactly those, even if more have ended; its seed is derived from the search's seed and n. `sweep.json`
holds every trial; Optuna's own file in the sweep folder (`optuna.log`, for its dashboard) is rebuilt from it at each
start.
"""

import math
import time
import warnings
from collections import deque
from itertools import product

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tnt_exp import run_folder
from tnt_exp.atomic_files import JsonObject
from tnt_exp.config.sweep import Method, Rerun, SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.formatting import format_params
from tnt_exp.preflight import preflight
from tnt_exp.reports.leaderboard import REPEATED
from tnt_exp.sweeps.plan import TrialComposer
from tnt_exp.sweeps.scheduler import SweepCallback
from tnt_exp.sweeps.search_space import SearchSpace, make_distribution
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import VALIDATION, FailureReason, Outcome, Trial, TrialState, config_hash, objective_value
from tnt_exp.sweeps.worker import JobProcess

OPTUNA_STUDY = "optuna.log"

_CHECK_INTERVAL = 1.0  # seconds between two looks at running trials, for pruning


class OptunaSearch:
    """Supplies the trials of a search (see `tnt_exp.sweeps.scheduler.TrialSource`).

    `trials` in the data of the sweep are the trials of the search. Lists of seeds and folds in its space are not
    searched: each Optuna trial runs once per combination; `parallel` of them run at once. `study` is Optuna's.
    """

    def __init__(
        self, sweep_study: SweepStudy, space: SearchSpace, settings: SweepConfig, compose: TrialComposer, parallel: int
    ) -> None:
        self._sweep_study, self._space, self._settings = sweep_study, space, settings
        self._compose, self._parallel = compose, parallel
        repeated = [key for key in REPEATED if key in space.swept and space.swept[key].is_discrete_sweep()]
        self._keys = [key for key in space.swept if key not in repeated]
        self._repeats = [dict(zip(repeated, chosen, strict=True)) for chosen in product(*map(space.values, repeated))]
        self._distributions = {key: make_distribution(key, space.swept[key]) for key in self._keys}
        if not self._keys:
            raise UserError(
                f"sweep={settings.method.name}: expected several values (not of seed, fold), received none."
            )
        self._trials: list[JsonObject] = sweep_study.data.setdefault("trials", [])
        self._ready = deque(sweep_study.pending_trials(settings.rerun))
        self._asked: set[int] = set()
        self.n_recorded = 0  # trials whose results the sampler knows
        self.study = self._restore()

    @property
    def total(self) -> int:
        """The number of runs, including those that have ended."""
        open_ = max(0, self._settings.trials - len(self._trials))
        return len(self._sweep_study.trials) + open_ * len(self._repeats)

    def next(self) -> Trial | None:
        """Return the next run that can start now, or None."""
        while not self._ready:
            number = len(self._trials)
            if number >= self._settings.trials:
                self._report_results(number)
                return None
            due = number - self._parallel + 1
            self._report_results(due)
            if self.n_recorded < due:
                return None
            self._ask()
        sweep_trial = self._ready.popleft()
        self._asked.add(sweep_trial.job)
        return sweep_trial

    def optuna_trial(self, sweep_trial: Trial) -> optuna.trial.Trial | None:
        """Return the Optuna trial of a run, or None if it runs with several seeds."""
        number = next((n for n, trial in enumerate(self._trials) if trial["jobs"] == [sweep_trial.job]), None)
        return None if number is None else self._optuna_trial(self.study.trials[number])

    def _optuna_trial(self, frozen: FrozenTrial) -> optuna.trial.Trial:
        return optuna.trial.Trial(self.study, frozen._trial_id)  # Optuna 5: no public way to a trial by number

    def _report_results(self, due: int) -> None:
        """Report the results of the first `due` trials to the sampler, in order, as far as they have ended."""
        while self.n_recorded < due:
            outcome = self._trial_outcome(self.n_recorded)
            if outcome is None:
                return
            state, value = outcome
            frozen = self.study.trials[self.n_recorded]
            trial = self._optuna_trial(frozen)
            for epoch, reached in self._reported_curve(self.n_recorded).items():
                if epoch not in frozen.intermediate_values:
                    trial.report(reached, epoch)
            self.study.tell(trial, value if state is OptunaState.COMPLETE else None, state=state)
            self.n_recorded += 1

    def on_trial_end(self, sweep_trial: Trial) -> None:
        """Report the results to the sampler, if all trials were asked for."""
        if len(self._trials) >= self._settings.trials:
            self._report_results(len(self._trials))

    def _ask(self) -> None:
        number = len(self._trials)
        self.study.sampler = self._sampler(number)
        asked = self.study.ask(self._distributions)
        values = {key: str(asked.params[key]) for key in self._keys}
        trial: JsonObject = {"values": dict(asked.params), "jobs": []}
        self._trials.append(trial)
        hashes = {sweep_trial.hash: sweep_trial for sweep_trial in self._sweep_study.trials}
        for repeat in self._repeats:
            spec = self._space.spec(values | repeat)
            try:
                config = self._compose(spec.overrides)
                preflight(config)
            except UserError as error:
                trial["invalid"] = str(error)
                print(f"left out   {format_params(spec.params)}: {error}", flush=True)
                break
            known = hashes.get(config_hash(config))
            sweep_trial = known or self._sweep_study.add_trial(spec, config, number)
            trial["jobs"].append(sweep_trial.job)
            if known is None:
                self._ready.append(sweep_trial)
        self._sweep_study.save()

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = (self._settings.seed * 1_000_003 + number) % 2**32
        if self._settings.method is Method.random:
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    def _trial_outcome(self, number: int) -> tuple[OptunaState, float | None] | None:
        """Return the state and value of a trial, or None if it has not ended."""
        trial = self._trials[number]
        if "invalid" in trial:
            return OptunaState.FAIL, None
        sweep_trials = [self._sweep_study.trials[job] for job in trial["jobs"]]
        states = [self._sweep_study.state(sweep_trial) for sweep_trial in sweep_trials]
        rerun = self._settings.rerun is Rerun.failed
        to_come = rerun and TrialState.failed in states and not self._asked.issuperset(trial["jobs"])
        if TrialState.waiting in states or to_come:
            return None
        ended = [trial for trial, state in zip(sweep_trials, states, strict=True) if state is TrialState.finished]
        found = [objective_value(self._sweep_study.result(trial), self._settings.objective) for trial in ended]
        values = [value for value in found if value is not None]
        if len(values) == len(sweep_trials):  # a mean over some of the seeds cannot be compared
            return OptunaState.COMPLETE, sum(values) / len(values)
        if TrialState.pruned in states:
            last = max(self._curve(sweep_trials[0]).items(), default=None)
            return (OptunaState.PRUNED, last[1]) if last else (OptunaState.FAIL, None)
        return OptunaState.FAIL, None

    def _curve(self, sweep_trial: Trial) -> dict[int, float]:
        """Return the objective after each epoch."""
        name = self._settings.objective or VALIDATION  # a curve has no test accuracy
        found = run_folder.read_metrics(self._sweep_study.folder_of(sweep_trial)).curve(name)
        return {int(epoch): value for epoch, value in found if math.isfinite(value)}

    def _reported_curve(self, number: int) -> dict[int, float]:
        """Return the curve of a trial with one run; empty if it has several."""
        jobs = self._trials[number]["jobs"]
        return self._curve(self._sweep_study.trials[jobs[0]]) if len(jobs) == 1 else {}

    def _restore(self) -> optuna.Study:
        """Rebuild Optuna's study from `sweep.json`."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = self._sweep_study.folder / OPTUNA_STUDY
        for left in file.parent.glob(f"{OPTUNA_STUDY}*"):  # also the lock of a killed process
            left.unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
        study = optuna.create_study(
            storage=storage,
            study_name=self._sweep_study.id,
            direction="maximize" if self._sweep_study.maximize else "minimize",
            sampler=self._sampler(0),
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=self._settings.pruning_epochs),
        )
        known = len(self._trials) - self._parallel
        for number, trial in enumerate(self._trials):
            outcome = self._trial_outcome(number) if number < known and self.n_recorded == number else None
            state, value = outcome or (OptunaState.RUNNING, None)
            study.add_trial(
                optuna.create_trial(
                    state=state,
                    value=value if state is not OptunaState.FAIL else None,
                    params=trial["values"],
                    distributions=self._distributions,
                    intermediate_values=self._reported_curve(number) if outcome else {},
                )
            )
            self.n_recorded += outcome is not None
        return study


def search_fingerprint(space: SearchSpace, settings: SweepConfig, parallel: int) -> JsonObject:
    """Return what identifies a search: a command with the same fingerprint resumes it."""
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


class PruningMonitor(SweepCallback):
    """Reports a metric of running trials to Optuna, epoch by epoch, and stops the trials that Optuna prunes."""

    def __init__(self, search: OptunaSearch, metric: str) -> None:
        self._search = search
        self._metric = metric
        self._next = 0.0
        self._reported: dict[int, int] = {}

    def poll(self, running: dict[int, tuple[Trial, JobProcess]]) -> None:
        """Report new epochs, at most once per second."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _CHECK_INTERVAL
        for sweep_trial, process in running.values():
            if trial := self._search.optuna_trial(sweep_trial):
                self._compare(sweep_trial, process, trial)

    def _compare(self, sweep_trial: Trial, process: JobProcess, trial: optuna.trial.Trial) -> None:
        done = self._reported.get(sweep_trial.job, 0)
        for row in run_folder.read_metrics(process.folder).rows[done:]:
            done += 1
            value = run_folder.parse_number(row.get(self._metric))
            if value is None:
                continue
            epoch = int(float(row["epoch"]))
            trial.report(value, epoch)
            if trial.should_prune():
                why = f"{self._metric} {value:.4f} after epoch {epoch}: worse than the median"
                process.stop(Outcome(FailureReason.pruned, why))
                break
        self._reported[sweep_trial.job] = done
