"""MLflow experiments: found by name, made when new."""

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

from tnt_exp.config import InputError
from tnt_exp.tracking.store import artifact_location


def experiment_id(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment; it is created when new, by whichever process comes first.

    Args:
        client: Of the store.
        uri: The store.
        name: The experiment's name.

    Raises:
        InputError: It was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_location(uri)))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            found = client.get_experiment_by_name(name)  # another process was first
    if found is None or found.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment: expected an active experiment, received the deleted {name}. "
            f"Restore it (mlflow experiments restore) or choose another name."
        )
    return str(found.experiment_id)
