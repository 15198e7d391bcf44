"""The model of a run in MLflow: loads through `mlflow.pyfunc` where this package is not installed.

Only MLflow's client is used: the fluent functions would put the files where the *active* experiment keeps its own.
"""

import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array

from tnt_exp import atomic_files, provenance
from tnt_exp.atomic_files import read_json
from tnt_exp.config.compose import load_config

if TYPE_CHECKING:
    from tnt_exp.model.classifier import Classifier

_PYFUNC_MODEL = Path(__file__).with_name("pyfunc_model.py")

ALIAS = "champion"

_SOURCE_TAG = "told"  # tag of a logged model that names run and epoch; the value is a contract

_COMPARED_METRICS = ("val/accuracy", "test/accuracy")  # the first one that exists


def package_model(
    classifier: "Classifier", example: np.ndarray, versions: Mapping[str, str], keras_file: Path, folder: Path
) -> None:
    """Write a model in the format of MLflow, with signature, input example (uint8 (1, H, W, C)) and requirements.

    Those of `versions` that the model needs, and MLflow, are its pinned requirements; `keras_file` holds it already.
    The folder exists only when it is complete.
    """
    from tnt_exp.export.portable import savedmodel

    folder.parent.mkdir(exist_ok=True)

    for name in ("absl", "tensorflow", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they log temporary files
    with tempfile.TemporaryDirectory() as name, atomic_files.atomic_path(folder) as partial:
        saved = Path(name) / "saved_model"
        savedmodel(classifier, example.shape[1:], saved)
        mlflow.pyfunc.save_model(
            str(partial),
            python_model=str(_PYFUNC_MODEL),
            artifacts={"saved_model": str(saved), "keras": str(keras_file)},
            signature=_signature(example.shape[-1]),
            input_example=example,
            pip_requirements=[
                f"mlflow=={mlflow.__version__}",
                *(f"{name}=={versions[name]}" for name in ("keras", "tensorflow") if name in versions),
            ],
        )


def package_run(folder: Path, target: Path) -> None:
    """Package `model.keras` of a finished run; imports Keras and TensorFlow."""
    from tnt_exp import model
    from tnt_exp.training.device import load_tensorflow, prepare_device

    trainer = load_config(folder / "config.yaml").trainer
    prepare_device(trainer.with_precision(provenance.recorded_precision(folder)))
    load_tensorflow()
    shape = (read_json(folder / "dataset.json") or {}).get("shape")
    if shape is None:
        raise FileNotFoundError(f"{folder}/dataset.json does not hold the shape of the images")
    example, keras_file = np.zeros((1, *shape), np.uint8), folder / "model.keras"
    package_model(model.load(keras_file), example, read_json(folder / "result.json")["versions"], keras_file, target)


def log_model(client: mlflow.MlflowClient, run_id: str, folder: Path, step: int) -> str:
    """Log a packaged model, named after its run, unless the run has it, and return MLflow's id of it.

    `package_model` has written the folder; `step` is the epoch of the weights. Raises `FileNotFoundError` if the folder
    is gone and the run lacks the model.
    """
    run, source = client.get_run(run_id), f"{run_id}/{step}"
    logged = find_logged_model(client, run.info.experiment_id, _SOURCE_TAG, source)
    if (logged is None or logged.status != LoggedModelStatus.READY) and not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no longer there")
    if logged is None:
        logged = client.create_logged_model(
            run.info.experiment_id,
            name=re.sub(r"""[/:.%'"]""", "_", run.info.run_name),  # MLflow refuses these characters
            source_run_id=run_id,
            params=run.data.params,
            tags={_SOURCE_TAG: source},
            model_type="pyfunc",
        )
    if logged.status != LoggedModelStatus.READY:
        upload_model(client, logged, run_id, folder)
        client.finalize_logged_model(logged.model_id, "READY")
    add_output(client, run, logged.model_id, step)
    return str(logged.model_id)


def find_logged_model(client: mlflow.MlflowClient, experiment_id: str, tag: str, value: str) -> LoggedModel | None:
    """Return the logged model with a tag, complete or not, or None."""
    found = client.search_logged_models([experiment_id], filter_string=f"tags.{tag} = '{value}'")
    return found[0] if found else None


def upload_model(client: mlflow.MlflowClient, logged: LoggedModel, run_id: str, folder: Path) -> None:
    """Upload the files of a logged model; the file MLmodel names the model and its run then."""
    if (folder / "MLmodel").is_file():
        mlmodel = Model.load(str(folder))
        mlmodel.model_id, mlmodel.run_id, mlmodel.artifact_path = logged.model_id, run_id, logged.artifact_location
        mlmodel.save(str(folder / "MLmodel"))
    client.log_model_artifacts(logged.model_id, str(folder))


def add_output(client: mlflow.MlflowClient, run: Run, model_id: str, step: int) -> None:
    """Make a logged model an output of a run, unless it is."""
    if model_id not in [output.model_id for output in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, step)])


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
    """Make a logged model a version of a registered model, and its `champion` if it is better; return whether it is.

    A registration that was interrupted is completed. Compared are validation accuracies, or test accuracies if there
    was no validation.
    """
    try:
        client.create_registered_model(name)
    except MlflowException:
        client.get_registered_model(name)  # it exists already; any other error is raised here
    location = client.get_logged_model(model_id).artifact_location
    versions = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    version = next((version for version in versions if version.source == location), None)
    if version is None:
        tags = {key: str(metrics[key]) for key in _COMPARED_METRICS if key in metrics}
        version = client.create_model_version(name, location, run_id=run_id, model_id=model_id, tags=tags)
    return _promote_if_better(client, name, version.version, metrics)


def _promote_if_better(client: mlflow.MlflowClient, name: str, version: str, metrics: Mapping[str, float]) -> bool:
    """Make a version the champion if it is better; return whether it is.

    Two runs that end together may both beat the former champion: the better one of all newer versions is it then.
    """
    key = next(key for key in _COMPARED_METRICS if key in metrics)
    try:
        former = client.get_model_version_by_alias(name, ALIAS)
    except MlflowException:
        former = None
    if not metrics[key] > (float("-inf") if former is None else _metric(client, former, key, unknown=float("inf"))):
        return False
    client.set_registered_model_alias(name, ALIAS, version)
    versions = client.search_model_versions(f"name = '{name}'", max_results=10_000)
    newer = [each for each in versions if former is None or int(each.version) > int(former.version)]
    best = max(newer, key=lambda each: (_metric(client, each, key, unknown=float("-inf")), -int(each.version)))
    if int(best.version) != int(version):
        client.set_registered_model_alias(name, ALIAS, best.version)
    return int(best.version) == int(version)


def _metric(client: mlflow.MlflowClient, version: ModelVersion, key: str, unknown: float) -> float:
    """Return the metric of a version: from its tag or, if others registered it, from its run."""
    values = dict(version.tags)
    if key not in values and version.run_id:
        run = client.get_run(version.run_id).data.metrics
        values[key] = run.get(f"best/{key}", run.get(key, unknown))
    value = float(values.get(key, unknown))
    return unknown if value != value else value
