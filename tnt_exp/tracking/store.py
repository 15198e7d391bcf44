"""Where the tracking store is, and how to look at it."""

from pathlib import Path

_SQLITE = "sqlite:///"


def tracking_uri(uri: str | None) -> str:
    """The configured store, or SQLite in the working folder, absolute so that nothing else can change it.

    MLflow's own default is the same file, but it turns to ./mlruns where that holds an old file store.
    """
    if uri is None:
        return f"{_SQLITE}{Path.cwd() / 'mlflow.db'}"
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{Path(uri.removeprefix(_SQLITE)).expanduser().resolve()}"
    return uri


def artifact_location(uri: str) -> str | None:
    """Where a new experiment's artifacts go: beside a SQLite file; a server decides for itself."""
    if not uri.startswith(_SQLITE):
        return None
    return (Path(uri.removeprefix(_SQLITE)).parent / "mlartifacts").as_uri()


def ui_command(uri: str) -> str:
    """What to type, or to open, to see the runs."""
    if uri.startswith(("http://", "https://")):
        return f"open {uri}"
    if uri == tracking_uri(None):
        return "tnt-exp ui"
    return f"tnt-exp ui --uri {uri}"
