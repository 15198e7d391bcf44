"""What MLflow is told of a sweep, from its books."""

import os
from typing import TYPE_CHECKING

from tnt_exp.sweep.books import Books
from tnt_exp.sweep.ending import Ending
from tnt_exp.sweep.point import Point, State

if TYPE_CHECKING:
    from tnt_exp.tracking.sweep import SweepTracker


class Telling:
    """Tells MLflow of a sweep; of nothing where tracking is off.

    Args:
        books: The sweep.
        tracker: None: tracking is off.
    """

    def __init__(self, books: Books, tracker: "SweepTracker | None") -> None:
        self._books = books
        self._tracker = tracker

    @classmethod
    def of(cls, books: Books) -> "Telling":
        """Open the parent run, and set right what an interruption left behind.

        Raises:
            InputError: The store cannot be reached.
        """
        if not books.points:
            return cls(books, None)
        tracking = books.config(books.points[0]).tracking
        if not tracking.enabled:
            return cls(books, None)
        from tnt_exp.tracking import tracking_uri
        from tnt_exp.tracking.sweep import SweepTracker

        # The store of a relative place is beside the folder where the sweep was started first.
        os.chdir(books.data["cwd"])
        known = books.data["mlflow"]
        uri = tracking_uri(tracking.uri)
        tracker = SweepTracker(
            uri,
            tracking.experiment,
            books.id,
            known and known["run_id"],
            {"run_folder": str(books.folder)},
        )
        books.data["mlflow"] = {"uri": uri, "experiment": tracking.experiment, "run_id": tracker.run_id}
        books.save()
        telling = cls(books, tracker)
        tracker.settle_all({books.folder_of(point): telling._ending(point) for point in books.points})
        return telling

    def ended(self, point: Point, ending: Ending) -> None:
        """A point has ended: its run says so too, even where the point could not."""
        if self._tracker:
            self._tracker.settle(self._books.folder_of(point), *self._ending(point))

    def again(self, point: Point, ending: Ending) -> None:
        """A point is started again: what it left is not counted."""
        if self._tracker:
            self._tracker.settle(self._books.folder_of(point), None, None)

    def finish(self, status: str) -> None:
        """The sweep has ended."""
        if self._tracker:
            self._tracker.finish(status)

    def _ending(self, point: Point) -> tuple[str | None, str | None]:
        result = self._books.result(point)
        if result is None or self._books.state(point) is State.waiting:
            return None, None
        return result["status"], result.get("mlflow_run_id")
