"""A run's model in MLflow: loads through `mlflow.pyfunc` where this package is not installed.

Only the client is used: the fluent functions put the files of a model where the *active* experiment keeps its own.
"""

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array

from tnt_exp import atomic_files

_SERVING = Path(__file__).with_name("pyfunc_model.py")

ALIAS = "champion"

_TOLD = "told"  # tag of a logged model: run and epoch, by which it is found again

_MEASURES = ("val/accuracy", "test/accuracy")  # what a champion is measured by: the first that there is


def package_model(classifier: Any, example: np.ndarray, requirements: Sequence[str], folder: Path) -> None:
    """Write a model as MLflow keeps it, with signature, input example and pinned requirements.

    Args:
        classifier: The model.
        example: uint8 (1, H, W, C).
        requirements: Lines of a requirements file, MLflow's own apart.
        folder: Whole once it is there.
    """
    from tnt_exp.export.portable import savedmodel

    for name in ("absl", "tensorflow", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of temporary files
    with tempfile.TemporaryDirectory() as name, atomic_files.atomic_path(folder) as made:
        saved, keras_file = Path(name) / "saved_model", Path(name) / "model.keras"
        savedmodel(classifier, example.shape[1:], saved)
        classifier.save(keras_file)
        mlflow.pyfunc.save_model(
            str(made),
            python_model=str(_SERVING),
            artifacts={"saved_model": str(saved), "keras": str(keras_file)},
            signature=_signature(example.shape[-1]),
            input_example=example,
            pip_requirements=[f"mlflow=={mlflow.__version__}", *requirements],
        )


def log_model(client: mlflow.MlflowClient, run_id: str, folder: Path, step: int) -> str:
    """Log a packaged model with a run, unless the run has it.

    Args:
        client: Of the store.
        run_id: The run.
        folder: What `package` wrote; not needed where the run has the model.
        step: The epoch whose weights it has.

    Returns:
        MLflow's id of the model.

    Raises:
        FileNotFoundError: The package is gone.
    """
    run = client.get_run(run_id)
    logged = _find(client, run, step)
    if logged is None:
        logged = client.create_logged_model(
            run.info.experiment_id,
            name="model",
            source_run_id=run_id,
            params=run.data.params,
            tags={_TOLD: f"{run_id}/{step}"},
            model_type="pyfunc",
        )
    if logged.status != LoggedModelStatus.READY:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no longer there")
        about = Model.load(str(folder))
        about.model_id, about.run_id, about.artifact_path = logged.model_id, run_id, logged.artifact_location
        about.save(str(folder / "MLmodel"))
        client.log_model_artifacts(logged.model_id, str(folder))
        client.finalize_logged_model(logged.model_id, "READY")
    if logged.model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])
    return str(logged.model_id)


def remove_package(folder: Path) -> None:
    """Remove a package: the store has it."""
    shutil.rmtree(folder, ignore_errors=True)


def _find(client: mlflow.MlflowClient, run: Run, step: int) -> LoggedModel | None:
    """The model of a run's epoch that was logged, or begun."""
    condition = f"tags.{_TOLD} = '{run.info.run_id}/{step}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=condition)
    return found[0] if found else None


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


def register_once(
    client: mlflow.MlflowClient, run_id: str, model_id: str, name: str, metrics: Mapping[str, float]
) -> None:
    """`register`, or what is left of it where it was done before, as a whole or in part."""
    location = client.get_logged_model(model_id).artifact_location
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    version = next((version for version in versions if version.source == location), None)
    if version is None:
        register(client, run_id, model_id, name, metrics)
    else:
        _promote_if_better(client, name, version.version, metrics)


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
    version = client.create_model_version(
        name,
        client.get_logged_model(model_id).artifact_location,
        run_id=run_id,
        model_id=model_id,
        tags={key: str(metrics[key]) for key in _MEASURES if key in metrics},
    )
    return _promote_if_better(client, name, version.version, metrics)


def _promote_if_better(client: mlflow.MlflowClient, name: str, version: str, metrics: Mapping[str, float]) -> bool:
    """Make a version the champion if it is better; returns whether it is."""
    measure = next(key for key in _MEASURES if key in metrics)
    if not metrics[measure] > _of_champion(client, name, measure):
        return False
    client.set_registered_model_alias(name, ALIAS, version)
    return True


def _of_champion(client: mlflow.MlflowClient, name: str, measure: str) -> float:
    try:
        champion = client.get_model_version_by_alias(name, ALIAS)
    except MlflowException:
        return float("-inf")
    return float(champion.tags.get(measure, "-inf"))
