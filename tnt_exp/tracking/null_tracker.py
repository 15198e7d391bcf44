"""The tracker of a run that is not tracked (`tracking=off`). Imports no MLflow."""


class NullTracker:
    """Takes what `Tracker` takes, and does nothing; there is neither a tracking store nor an MLflow run."""

    uri = ""
    run_id = ""

    def _ignore(self, *arguments: object, **options: object) -> None:
        """Do nothing."""

    tags = metrics = artifacts = model = finish = _ignore
