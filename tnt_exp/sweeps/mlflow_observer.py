"""Logs a sweep to MLflow: the parent run, the states of the children, leaderboard and figures."""

import os
import shlex
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tnt_exp.config.schema import TrackingConfig
from tnt_exp.reports import leaderboard
from tnt_exp.reports.sweep_page import SweepResults, render_page
from tnt_exp.sweeps import results
from tnt_exp.sweeps.scheduler import SweepCallback
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import Outcome, Trial
from tnt_exp.tracking.record import NOTE

if TYPE_CHECKING:
    from tnt_exp.tracking.tracker import SweepTracker


_REPORT_INTERVAL = 60.0  # seconds between two leaderboards of a sweep that runs
_DESCRIBED = 20  # points in the description of the parent run


class MlflowObserver(SweepCallback):
    """Logs a sweep to MLflow."""

    def __init__(self, study: SweepStudy, tracker: "SweepTracker") -> None:
        self._study = study
        self._tracker = tracker
        self._last = time.monotonic()

    @classmethod
    def of(cls, study: SweepStudy, tracking: TrackingConfig, swept: Iterable[str]) -> SweepCallback:
        """Create or resume the parent run, and correct the states that an interruption left behind.

        `swept` are keys of the command; a search has no trial yet. Where tracking is off, the callback does nothing.
        Raises `UserError` if the store cannot be reached.
        """
        if not tracking.enabled:
            return SweepCallback()
        from tnt_exp.tracking.client import resolve_tracking_uri
        from tnt_exp.tracking.tracker import SweepTracker

        # A relative tracking.uri counts from the folder in which the sweep was started first.
        os.chdir(study.cwd)
        uri = resolve_tracking_uri(tracking.uri)
        tags = {
            "direction": str(study.data["direction"]),
            "swept": " ".join(results.varying_keys(study, swept)),
            "objective": study.data["objective"] or "",  # the default is known when a trial has finished
            "command": shlex.join(["tnt-exp", "train", "-m", *study.data["command"]]),
        }
        tracker = SweepTracker.open(study.folder, uri, tracking.experiment, study.id, tags)
        study.data["mlflow"] = {"uri": uri, "experiment": tracking.experiment, "run_id": tracker.run_id}
        study.save()
        tracker.sync_trials(study.folder_of(trial) for trial in study.trials)
        return cls(study, tracker)

    def on_trial_end(self, trial: Trial, outcome: Outcome) -> None:
        """Send what the trial itself could not: the outcome, if it was killed."""
        self._tracker.sync_trials([self._study.folder_of(trial)])
        if time.monotonic() - self._last > _REPORT_INTERVAL:
            self._log_report()

    def finish(self, status: str) -> None:
        """Log the report, and end the parent run."""
        self._log_report()
        self._tracker.sync_trials(self._study.folder_of(trial) for trial in self._study.trials)  # their ranks
        self._tracker.finish(status)

    def _log_report(self) -> None:
        """Log the leaderboard, the figures and the best child with the parent run."""
        found, files = results.load_results(self._study), self._tracker.files
        ranking = found.ranking
        (files / "plots").mkdir(parents=True, exist_ok=True)
        leaderboard.write_leaderboard(files, ranking, found.objective)
        leaderboard.write_points(files / "points.csv", found.rows)
        if found.effects:
            leaderboard.write_main_effects(files / "effects.csv", found.effects)
        results.write_folds_matrix(self._study, files)
        (files / "report.html").write_text(render_page(found), encoding="utf-8")
        for name, svg in found.figures.items():
            (files / "plots" / f"{name.replace('/', '_')}.svg").write_text(svg, encoding="utf-8")
        tags = {"objective": found.objective, NOTE: _describe(found, self._tracker)}
        tags |= {"objective_images": str(found.images)} if found.images else {}
        metrics, sweep = {}, self._tracker.link(self._tracker.run_id, f"sweep {found.id}")
        ranks = {
            str(row.job): [f"Rank {point.rank}{_ties(point, ranking)} of {len(ranking)} in {sweep}."]
            for point in ranking
            if point.rank is not None
            for row in point.rows
        }
        if ranking and ranking[0].mean is not None:
            best = ranking[0]
            jobs = " ".join(str(row.job) for row in best.rows)
            tags |= {"best_job": jobs, "best_point": best.label, "best_run_id": best.best.run_id or ""}
            metrics = {f"best/{found.objective}": [best.mean, time.time_ns() // 1_000_000]}
        self._tracker.note(tags, metrics=metrics, ranks=ranks)
        self._last = time.monotonic()


def _ties(point: leaderboard.RankedPoint, ranking: Sequence[leaderboard.RankedPoint]) -> str:
    """Return how many points share a rank, if it is not one."""
    count = sum(other.rank == point.rank for other in ranking)
    return f" ({count} are equal)" if count > 1 else ""


def _describe(found: SweepResults, tracker: "SweepTracker") -> str:
    """Return the verdict on a sweep and its best points, as Markdown."""
    names = [found.objective, *([leaderboard.TEST] if found.objective != leaderboard.TEST else [])]
    lines = [
        *(f"- {line}" for line in found.verdict),
        "",
        f"| rank | trial | {' | '.join(map(leaderboard.kept_name, names))} | parameters |",
    ]
    lines.append("|---:|---|" + "---:|" * (len(names) + 1))
    for point in found.ranking[:_DESCRIBED]:
        values = [point.mean, *(point.mean_of(name) for name in names[1:])]
        cells = ["" if value is None else f"{value:.4f}" for value in values]
        cells.append(f"{parameters:,.0f}" if (parameters := point.best.facts.get("parameters")) else "")
        lines.append(f"| {point.rank or ''} | {tracker.link(point.best.run_id, point.label)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "All trials: artifact leaderboard.csv; with figures: artifact report.html."])
