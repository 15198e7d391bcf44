"""Read a sweep back from MLflow."""

from collections.abc import Callable
from dataclasses import dataclass

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tnt_exp.config import InputError
from tnt_exp.tracking.opening import client_of


@dataclass(frozen=True)
class Told:
    """What MLflow knows of one run."""

    run_id: str
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    history: Callable[[str, str], list[tuple[float, float]]]


def read_sweep(uri: str, sweep_id: str) -> tuple[Told, list[Told]]:
    """The parent run of a sweep and its children.

    Args:
        uri: Tracking store.
        sweep_id: The sweep's id.

    Raises:
        InputError: The store cannot be read or has no such sweep.
    """
    client = client_of(uri)
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found: list[Run] = []
        token: str | None = None
        while True:
            page = client.search_runs(experiments, f"tags.sweep_id = '{sweep_id}'", max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                break
    except (MlflowException, OSError) as error:
        raise InputError(f"{uri}: expected a tracking store, received {str(error).splitlines()[0]}.") from error

    def history(run_id: str, metric: str) -> list[tuple[float, float]]:
        return [(float(point.step), float(point.value)) for point in client.get_metric_history(run_id, metric)]

    def told(run: Run) -> Told:
        data = run.data
        return Told(run.info.run_id, run.info.status, data.params, data.metrics, data.tags, history)

    parents = [run for run in found if run.data.tags.get("sweep") == "parent"]
    if not parents:
        raise InputError(
            f"{sweep_id}: expected the folder of a sweep or the id of one in {uri}, received neither. "
            "The id is the name of a sweep's folder, and the tag sweep_id of its runs."
        )
    return told(parents[0]), [told(run) for run in found if "sweep_job" in run.data.tags]
