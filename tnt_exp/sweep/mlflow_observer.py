"""What MLflow is told of a sweep, from its books."""

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp.atomic_files import read_json
from tnt_exp.reports import sweep_figures
from tnt_exp.reports.leaderboard import leaderboard_columns, write_leaderboard, write_points
from tnt_exp.reports.main_effects import MainEffect, main_effects, write_main_effects
from tnt_exp.reports.sweep_page import SweepResults, render_page
from tnt_exp.sweep import results
from tnt_exp.sweep.outcome import Outcome
from tnt_exp.sweep.study import SweepStudy
from tnt_exp.sweep.trial import Trial, TrialState

if TYPE_CHECKING:
    from tnt_exp.tracking.sweep_tracker import SweepTracker


_REPORT_INTERVAL = 60.0  # seconds between two leaderboards of a sweep that runs


class MlflowObserver:
    """Tells MLflow of a sweep; of nothing where tracking is off.

    Args:
        books: The sweep.
        tracker: None: tracking is off.
    """

    def __init__(self, books: SweepStudy, tracker: "SweepTracker | None") -> None:
        self._books = books
        self._tracker = tracker
        self._last = time.monotonic()

    @classmethod
    def of(cls, books: SweepStudy) -> "MlflowObserver":
        """Open the parent run, and set right what an interruption left behind.

        Raises:
            UserError: The store cannot be reached.
        """
        if not books.points:
            return cls(books, None)
        tracking = books.config(books.points[0]).tracking
        if not tracking.enabled:
            return cls(books, None)
        from tnt_exp.tracking import resolve_tracking_uri
        from tnt_exp.tracking.sweep_tracker import SweepTracker

        # The store of a relative place is beside the folder where the sweep was started first.
        os.chdir(books.data["cwd"])
        uri = resolve_tracking_uri(tracking.uri)
        tracker = SweepTracker.open(books.folder, uri, tracking.experiment, books.id)
        books.data["mlflow"] = {"uri": uri, "experiment": tracking.experiment, "run_id": tracker.run_id}
        books.save()
        telling = cls(books, tracker)
        tracker.settle({books.folder_of(point): telling._left(point) for point in books.points})
        tracker.tags(
            {
                "run_folder": str(books.folder),
                "direction": str(books.data["direction"]),
                "swept": " ".join(dict.fromkeys(key for point in books.points for key in point.params)),
                "command": " ".join(["tnt-exp train -m", *books.data["command"]]),
            }
        )
        return telling

    def ended(self, point: Trial, ending: Outcome) -> None:
        """A point has ended: its run says so too, even where the point could not."""
        if not self._tracker:
            return
        self._tracker.settle({self._books.folder_of(point): (ending.status, self._run_of(point), _tags(ending))})
        if time.monotonic() - self._last > _REPORT_INTERVAL:
            self._show()

    def again(self, point: Trial, ending: Outcome) -> None:
        """A point will be started again: in the run that its folder names, others are tries that left nothing."""
        if self._tracker:
            self._tracker.settle({self._books.folder_of(point): ("KILLED", self._run_of(point), {})})

    def finish(self, status: str) -> None:
        """The sweep has ended."""
        if self._tracker:
            self._show()
            self._tracker.finish(status)

    def _left(self, point: Trial) -> tuple[str, str | None, dict[str, str]]:
        """The status of a point, KILLED where it will be started again, and the run that tells of it."""
        result = self._books.result(point)
        waiting = result is None or self._books.state(point) is TrialState.waiting
        return "KILLED" if waiting or result is None else result["status"], self._run_of(point), {}

    def _run_of(self, point: Trial) -> str | None:
        """The MLflow run that the point's folder names."""
        told = read_json(self._books.folder_of(point) / "mlflow.json")
        return told["run_id"] if told else None

    def _show(self) -> None:
        """The leaderboard, the pictures and the best child, with the parent run."""
        if self._tracker is None:
            return
        told = results.load_results(self._books)
        places = results.ranked(list(told.rows), self._books)
        worth = main_effects(places)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_leaderboard(folder / "leaderboard.csv", places, told.objective)
            write_points(folder / "points.csv", told.rows)
            if worth:
                write_main_effects(folder / "effects.csv", worth)
            (folder / "report.html").write_text(render_page(told))
            self._tracker.artifacts(sorted(folder.iterdir()))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _draw(told, worth, folder)
            self._tracker.artifacts(sorted(folder.iterdir()), "plots")
        self._tracker.table(leaderboard_columns(places, told.objective), "leaderboard.json")
        self._tracker.tags({"objective": told.objective})
        if places and places[0].mean is not None:
            row = places[0].best
            self._tracker.best(row.run_id, row.job, row.params, told.objective, places[0].mean)
        self._last = time.monotonic()


def _draw(told: SweepResults, worth: list[MainEffect], folder: Path) -> None:
    if not any(row.objective is not None for row in told.rows):
        return
    parallel = sweep_figures.parallel_coordinates(told.rows, told.objective, maximize=told.maximize)
    (folder / "parallel_coordinates.svg").write_text(parallel)
    for key in dict.fromkeys(key for row in told.rows for key in row.params):
        file = f"objective_against_{key.replace('/', '_')}.svg"
        (folder / file).write_text(sweep_figures.objective_scatter(told.rows, key, told.objective))
    if worth:
        (folder / "what_each_value_is_worth.svg").write_text(sweep_figures.effects_chart(worth, told.objective))
    if told.curves:
        (folder / "curves_of_the_best.svg").write_text(sweep_figures.best_curves(told.curves, told.objective))


def _tags(ending: Outcome) -> dict[str, str]:
    if ending.cause is None:
        return {}
    return {"cause": ending.cause.value, "error": f"{ending.cause.value}: {ending.error}"}
