"""Send messages to MLflow. Each can be sent twice without being told twice.

The store drops a metric that is equal in key, time, step and value, and a parameter, tag, input or file that it has;
time and step are in the message. Models are looked up before they are made.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tnt_exp.tracking import model, settling
from tnt_exp.tracking.spool import Run

Message = dict[str, Any]

LOGGED = ("params", "tags", "metrics")  # neighbours of these kinds are sent as one
LARGE = ("artifact", "text", "model")  # go to the place of artifacts, which may be away while the store is there

_NEVER = (
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
)


def refused(error: Exception) -> bool:
    """Whether sending again is no use: the store has understood, and will not; or what is to be sent is gone."""
    return isinstance(error, FileNotFoundError) or (
        isinstance(error, MlflowException) and str(error.error_code) in _NEVER
    )


def send(client: mlflow.MlflowClient, run: Run, folder: Path, messages: Sequence[Message]) -> None:
    """Send some messages of the kinds `LOGGED`, or one of another kind.

    Args:
        client: Of the store.
        run: The run.
        folder: The run folder.
        messages: In their order.

    Raises:
        MlflowException: The store is away or refuses.
        OSError: A file or the place of artifacts is away.
    """
    run_id, message = run.run_id, messages[0]
    match message["kind"]:
        case "params" | "tags" | "metrics":
            _log(client, run_id, messages)
        case "dataset":
            given = [InputTag("mlflow.data.context", message["context"])]
            client.log_inputs(run_id, [DatasetInput(Dataset(**message["dataset"]), given)])
        case "artifact":
            _artifact(client, run_id, folder / message["path"], message["to"])
        case "text":
            client.log_text(run_id, message["text"], message["to"])
        case "model":
            model_id = model.log_model(client, run_id, folder / message["path"], message["step"])
            if message["register"]:
                model.register_once(client, run_id, model_id, message["register"], message["metrics"])
            model.clear(folder / message["path"])
        case "status" if message["status"] == "RUNNING":
            client.update_run(run_id, "RUNNING")
        case "status":
            client.set_terminated(run_id, message["status"], message["time"])
        case "settle":
            settling.settle(client, run.experiment_id, message)
        case kind:
            raise MlflowException.invalid_parameter_value(f"no kind of message: {kind}")


def _log(client: mlflow.MlflowClient, run_id: str, messages: Sequence[Message]) -> None:
    said: dict[str, list[Message]] = {kind: [m for m in messages if m["kind"] == kind] for kind in LOGGED}
    tags = {key: value for message in said["tags"] for key, value in message["values"].items()}
    client.log_batch(
        run_id,
        metrics=[
            Metric(key, value, message["time"], message["step"])
            for message in said["metrics"]
            for key, value in message["values"].items()
        ],
        params=[Param(key, value) for message in said["params"] for key, value in message["values"].items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
    )


def _artifact(client: mlflow.MlflowClient, run_id: str, path: Path, to: str | None) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), to)
    elif path.is_file():
        client.log_artifact(run_id, str(path), to)
    else:
        raise FileNotFoundError(f"{path} is no longer there")
