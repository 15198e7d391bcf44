"""What MLflow's pages show first: the runs table of an experiment, with its columns, and the description of a run."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.formatting import format_duration, format_wrong
from tnt_exp.run_folder import parse_number, read_metrics

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEPT = "best/val/accuracy"  # by which the runs table is sorted
VIEW = "tnt-exp"  # name of the view that MLflow stores in a tag of the experiment, as its button "Share" does
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
_SWEPT_COLUMNS = 6  # at most this many swept keys have a column, those of the newest sweeps
_FIRST = [f"metrics.`{KEPT}`", "metrics.`test/accuracy`", "tags.`best_epoch`"]  # columns, in front of the swept keys
_LAST = ["metrics.`model_parameters`", "metrics.`train_seconds`", "attributes.`Description`"]
_NAME, _WIDTHS = "attributes.`Run Name`", {"params": 130, "metrics": 140, "tags": 90, "attributes": 280}  # pixels


def configure_experiment(client: "MlflowClient", experiment_id: str, swept: Sequence[str] = ()) -> None:
    """Let MLflow show an experiment as model training, and its runs in a table with the figures of the kept epoch.

    The keys in `swept` get a column, in front of those that have one.
    """
    tags = client.get_experiment(experiment_id).tags
    before = json.loads(tags.get(_VIEW_TAG, "{}")).get("selectedColumns", [])
    params = [f"params.`{key}`" for key in swept] + [column for column in before if column.startswith("params.")]
    columns = [*_FIRST, *list(dict.fromkeys(params))[:_SWEPT_COLUMNS], *_LAST]
    view = {
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": {column: _WIDTHS[column.partition(".")[0]] for column in [_NAME, *columns]},
        "orderByKey": f"metrics.`{KEPT}`",
        "orderByAsc": False,
    }
    wanted = {
        "mlflow.experimentKind": tags.get("mlflow.experimentKind", "custom_model_development"),
        "mlflow.experiment.primaryMetric.name": tags.get("mlflow.experiment.primaryMetric.name", KEPT),
        _VIEW_TAG: json.dumps(view),
    }
    for key, value in wanted.items():
        if tags.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def runs_table_url(address: str, experiment_id: str) -> str:
    """Return the address of the runs table of an experiment on a server."""
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW}"
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def run_name(model: str, dataset: str, folder: Path) -> str:
    """Return the name of a run without a name of its own: model, dataset and the id of its folder."""
    stamp = re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_(\w+)", folder.name)
    return " ".join([model, dataset, stamp[1] if stamp else folder.name])


def describe_run(folder: Path, result: JsonObject, epochs: object) -> str:
    """Return one line of verdict on a run that has ended; `epochs` is how many were to be trained, if that is known."""
    if result["status"] != "FINISHED":
        return f"{result['status'].capitalize()}: {result.get('error') or 'no reason is known'}"
    metrics, images = result.get("metrics", {}), (read_json(folder / "dataset.json", skip=True) or {}).get("images", {})
    figures, hardware = [], result.get("hardware")
    for split, name in (("val", "validation"), ("test", "test")):
        if (accuracy := metrics.get(f"{split}/accuracy")) is not None:
            wrong = f" ({format_wrong(accuracy, images[name])})" if name in images else ""
            figures.append(f"{name} accuracy {accuracy:.4f}{wrong}")
    epochs = f" of {epochs}" if epochs else ""
    parts = [f"Epoch {result['epoch']}{epochs} was kept: {', '.join(figures)}"] if result.get("epoch") else figures
    best = metrics.get("val/accuracy")
    equal = sum(parse_number(row.get("val/accuracy")) == best is not None for row in read_metrics(folder).rows)
    parts += [f"{equal} epochs have this validation accuracy"] if equal > 1 else []
    where = f" on {hardware['name']} ({hardware['device']}, {hardware['backend']})" if hardware else ""
    parts += [f"Trained for {format_duration(result['train_seconds'])}{where}"] if "train_seconds" in result else []
    return "".join(f"{part}. " for part in parts).strip()
