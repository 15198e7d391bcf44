"""Logs a sweep to MLflow: the parent run, the states of the children, leaderboard and figures."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp.reports.leaderboard import (
    MainEffect,
    leaderboard_columns,
    main_effects,
    write_leaderboard,
    write_main_effects,
    write_points,
)
from tnt_exp.reports.sweep_page import SweepResults, render_page
from tnt_exp.sweeps import results
from tnt_exp.sweeps.outcome import Outcome
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import Trial

if TYPE_CHECKING:
    from tnt_exp.tracking.sweep_tracker import SweepTracker


_REPORT_INTERVAL = 60.0  # seconds between two leaderboards of a sweep that runs


class MlflowObserver:
    """Logs a sweep to MLflow; does nothing if tracking is off (no tracker)."""

    def __init__(self, study: SweepStudy, tracker: "SweepTracker | None") -> None:
        self._study = study
        self._tracker = tracker
        self._last = time.monotonic()

    @classmethod
    def of(cls, study: SweepStudy) -> "MlflowObserver":
        """Create or resume the parent run, and correct the states that an interruption left behind.

        Raises:
            UserError: The store cannot be reached.
        """
        if not study.trials:
            return cls(study, None)
        tracking = study.config(study.trials[0]).tracking
        if not tracking.enabled:
            return cls(study, None)
        from tnt_exp.tracking.client import resolve_tracking_uri
        from tnt_exp.tracking.sweep_tracker import SweepTracker

        # A relative tracking.uri counts from the folder in which the sweep was started first.
        os.chdir(study.data["cwd"])
        uri = resolve_tracking_uri(tracking.uri)
        tags = {
            "direction": str(study.data["direction"]),
            "swept": " ".join(dict.fromkeys(key for trial in study.trials for key in trial.params)),
            "command": " ".join(["tnt-exp train -m", *study.data["command"]]),
        }
        tracker = SweepTracker.open(study.folder, uri, tracking.experiment, study.id, tags)
        study.data["mlflow"] = {"uri": uri, "experiment": tracking.experiment, "run_id": tracker.run_id}
        study.save()
        tracker.sync_trials(study.folder_of(trial) for trial in study.trials)
        return cls(study, tracker)

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        """Send what the trial itself could not: the outcome, if it was killed."""
        if not self._tracker:
            return
        self._tracker.sync_trials([self._study.folder_of(trial)])
        if time.monotonic() - self._last > _REPORT_INTERVAL:
            self._log_report()

    def on_retry(self, trial: Trial, outcome: Outcome) -> None:
        """Do nothing: the next attempt continues the MLflow run of the folder."""

    def finish(self, status: str) -> None:
        """Log the report, and end the parent run."""
        if self._tracker:
            self._log_report()
            self._tracker.finish(status)

    def _log_report(self) -> None:
        """Log the leaderboard, the figures and the best child with the parent run."""
        if self._tracker is None:
            return
        found = results.load_results(self._study)
        ranking = results.ranked(list(found.rows), self._study)
        effects = main_effects(ranking)
        files = self._tracker.files
        (files / "plots").mkdir(parents=True, exist_ok=True)
        write_leaderboard(files / "leaderboard.csv", ranking, found.objective)
        write_points(files / "points.csv", found.rows)
        if effects:
            write_main_effects(files / "effects.csv", effects)
        results.write_folds_matrix(self._study, files)
        (files / "report.html").write_text(render_page(found))
        _draw(found, effects, files / "plots")
        self._tracker.note(tags={"objective": found.objective})
        self._tracker.table(leaderboard_columns(ranking, found.objective), "leaderboard.json")
        if ranking and ranking[0].mean is not None:
            row = ranking[0].best
            self._tracker.best(row.run_id, row.job, row.params, found.objective, ranking[0].mean)
        self._last = time.monotonic()


def _draw(found: SweepResults, effects: list[MainEffect], folder: Path) -> None:
    if not any(row.objective is not None for row in found.rows):
        return
    from tnt_exp.reports import sweep_figures  # imports Matplotlib, which takes half a second

    parallel = sweep_figures.parallel_coordinates(found.rows, found.objective, maximize=found.maximize)
    (folder / "parallel_coordinates.svg").write_text(parallel)
    for key in dict.fromkeys(key for row in found.rows for key in row.params):
        file = f"objective_against_{key.replace('/', '_')}.svg"
        (folder / file).write_text(sweep_figures.objective_scatter(found.rows, key, found.objective))
    if effects:
        (folder / "effect_of_each_value.svg").write_text(sweep_figures.effects_chart(effects, found.objective))
    if found.curves:
        (folder / "curves_of_the_best.svg").write_text(sweep_figures.best_curves(found.curves, found.objective))
