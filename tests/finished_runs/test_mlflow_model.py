"""The model that a run logs: it loads without this package, and is registered where asked."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest
from finished_runs.conftest import tnt_exp as tnt_exp_command
from mlflow.exceptions import MlflowException

import tnt_exp
from tnt_exp import data
from tnt_exp.finished_runs import find_run
from tnt_exp.tracking.client import init_sqlite_store
from tnt_exp.tracking.models import register

# This package is kept out of the process: it is found where it is neither installed nor in the way.
_PROGRAM = """
import sys
class Away:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tnt_exp", "hydra", "omegaconf"):
            raise ImportError(name)
sys.meta_path.insert(0, Away())
import json, mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
answers = model.predict(np.load(sys.argv[2]))
print(json.dumps({name: answers[name].tolist() for name in answers}))
"""


@pytest.fixture(scope="module")
def client(working_folder: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{working_folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def model(client: mlflow.MlflowClient, result: dict) -> mlflow.entities.LoggedModel:
    (output,) = client.get_run(result["mlflow_run_id"]).outputs.model_outputs
    return client.get_logged_model(output.model_id)


@pytest.fixture(scope="module")
def files(model: mlflow.entities.LoggedModel) -> Path:
    return Path(model.artifact_location.removeprefix("file://"))


def test_model_lies_with_the_run_and_nowhere_else(
    client: mlflow.MlflowClient, model: mlflow.entities.LoggedModel, working_folder: Path, files: Path, result: dict
) -> None:
    assert model.status == "READY"
    assert model.experiment_id == client.get_run(result["mlflow_run_id"]).info.experiment_id
    assert files.is_relative_to(working_folder / "mlartifacts")
    assert not (working_folder / "mlruns").exists()


def test_it_says_what_it_takes_gives_and_needs(files: Path) -> None:
    about = mlflow.models.Model.load(str(files))
    assert about.signature.inputs.inputs[0].shape == (-1, -1, -1, 1)
    assert about.signature.outputs.input_names() == ["class", "probability", "probabilities"]
    assert np.shape(json.loads((files / "input_example.json").read_text())) == (1, 8, 8, 1)
    for line in (files / "requirements.txt").read_text().split():
        assert "==" in line


def test_it_answers_without_this_package(files: Path, run_folder: Path, tmp_path: Path) -> None:
    images = data.load_dataset(find_run(run_folder).config.dataset).test.images[:5]
    np.save(tmp_path / "images.npy", images)
    copy = shutil.copytree(files, tmp_path / "a project [1]")  # TensorFlow would take the brackets for a pattern
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, str(copy), str(tmp_path / "images.npy")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    logits = tnt_exp.load(run_folder).predict(images, verbose=0)
    assert answers["class"] == [str(index) for index in logits.argmax(axis=1)]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(answers["probabilities"], odds / odds.sum(axis=1, keepdims=True), atol=1e-6)
    assert answers["probability"] == [max(row) for row in answers["probabilities"]]


def test_store_that_fails_is_not_taken_for_a_model_there_is(client: mlflow.MlflowClient, result: dict) -> None:
    with pytest.raises(MlflowException):
        register(client, result["mlflow_run_id"], "m-0", "", {"val/accuracy": 1.0})


def test_a_store_that_lost_the_model_gets_it_again_from_the_run_folder(run_folder: Path, tmp_path: Path) -> None:
    store, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "multirun/runs/run"
    init_sqlite_store(store)
    shutil.copytree(run_folder, folder)
    reference = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps(reference | {"uri": store}))
    assert "values sent" in tnt_exp_command(tmp_path, "sync").stdout
    client = mlflow.MlflowClient(store)
    run = client.get_run(json.loads((folder / "result.json").read_text())["mlflow_run_id"])
    (output,) = run.outputs.model_outputs
    assert client.get_logged_model(output.model_id).status == "READY"
    assert sorted(given.tags[0].value for given in run.inputs.dataset_inputs) == ["test", "train", "validation"]
    assert not (folder / "mlflow/model").exists()
    assert tnt_exp_command(tmp_path, "sync").stdout == "MLflow has everything\n"


@pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow, when it is imported
def test_floats_from_0_to_1_are_refused() -> None:
    """As a server gets them: MLflow cuts the numbers of a request to the type of the signature."""
    from mlflow.pyfunc.scoring_server import infer_and_parse_data
    from mlflow.types import Schema, TensorSpec

    from tnt_exp.tracking.pyfunc_model import SavedModelPredictor

    schema = Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 1))])
    images = np.random.default_rng(0).random((2, 8, 8, 1))
    predictor = SavedModelPredictor()
    with pytest.raises(MlflowException, match="from 0 to 255") as caught:
        predictor.predict(None, infer_and_parse_data({"inputs": images.tolist()}, schema))
    assert caught.value.get_http_status_code() == 400
