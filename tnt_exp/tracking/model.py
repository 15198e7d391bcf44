"""A run's model in MLflow: loads through `mlflow.pyfunc` where this package is not installed.

Only the client is used: the fluent functions put the files of a model where the *active* experiment keeps its own.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array

_SERVING = Path(__file__).with_name("serving.py")

ALIAS = "champion"
_MEASURES = ("val/accuracy", "test/accuracy")  # what a champion is measured by: the first that there is


def log_model(
    client: mlflow.MlflowClient, run_id: str, classifier: Any, example: np.ndarray, requirements: Sequence[str]
) -> str:
    """Log a model with signature, input example and pinned requirements.

    Args:
        client: Of the store.
        run_id: The run.
        classifier: The model.
        example: uint8 (1, H, W, C).
        requirements: Lines of a requirements file, MLflow's own apart.

    Returns:
        MLflow's id of the model.
    """
    from tnt_exp.export.portable import savedmodel

    for name in ("absl", "tensorflow", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of temporary files
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    run = client.get_run(run_id)
    logged = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, params=run.data.params, model_type="pyfunc"
    )
    with tempfile.TemporaryDirectory() as beside:
        saved, keras_file, folder = Path(beside) / "saved_model", Path(beside) / "model.keras", Path(beside) / "model"
        savedmodel(classifier, example.shape[1:], saved)
        classifier.save(keras_file)
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(_SERVING),
            artifacts={"saved_model": str(saved), "keras": str(keras_file)},
            signature=_signature(example.shape[-1]),
            input_example=example,
            pip_requirements=[f"mlflow=={mlflow.__version__}", *requirements],
            mlflow_model=Model(model_id=logged.model_id, run_id=run_id, artifact_path=logged.artifact_location),
        )
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def _signature(channels: int) -> ModelSignature:
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, channels))]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Array(DataType.double), "probabilities"),
            ]
        ),
    )


def register(client: mlflow.MlflowClient, run_id: str, model_id: str, name: str, metrics: Mapping[str, float]) -> bool:
    """Make a logged model a version of a registered one; the alias `champion` goes to it only if it is better.

    Args:
        client: Of the store.
        run_id: The run.
        model_id: The logged model.
        name: The registered model; created when new.
        metrics: Of the run: validation accuracy counts, or test accuracy where there was no validation.

    Returns:
        Whether it is the champion now.
    """
    try:
        client.create_registered_model(name)
    except MlflowException:
        client.get_registered_model(name)  # it is there already; any other trouble is raised here
    measure = next(key for key in _MEASURES if key in metrics)
    version = client.create_model_version(
        name,
        client.get_logged_model(model_id).artifact_location,
        run_id=run_id,
        model_id=model_id,
        tags={key: str(metrics[key]) for key in _MEASURES if key in metrics},
    )
    if not metrics[measure] > _of_champion(client, name, measure):
        return False
    client.set_registered_model_alias(name, ALIAS, version.version)
    return True


def _of_champion(client: mlflow.MlflowClient, name: str, measure: str) -> float:
    try:
        champion = client.get_model_version_by_alias(name, ALIAS)
    except MlflowException:
        return float("-inf")
    return float(champion.tags.get(measure, "-inf"))
