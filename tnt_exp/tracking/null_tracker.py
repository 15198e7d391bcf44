"""The tracker of a run that is not tracked (`tracking=off`). Imports no MLflow."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier


class NullTracker:
    """Takes what `Tracker` takes, and does nothing.

    Attributes:
        uri: Empty: there is no tracking store.
        run_id: Empty: there is no MLflow run.
    """

    uri = ""
    run_id = ""

    def tags(self, values: Mapping[str, str]) -> None:
        """Do nothing."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def artifacts(self, names: list[str]) -> None:
        """Do nothing."""

    def model(
        self,
        classifier: "Classifier",
        example: Any,
        requirements: list[str],
        step: int,
        register: str | None,
        metrics: Mapping[str, float],
    ) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""
