"""What a person may call a run by."""

import json
import os
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml

from tnt_exp.errors import UserError
from tnt_exp.finished_runs import apply_overrides, find_run, test_images
from tnt_exp.finished_runs.find import find_run_folder


def store(working_folder: Path) -> str:
    return f"sqlite:///{working_folder / 'mlflow.db'}"


def test_a_folder(working_folder: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(working_folder)
    found = find_run(f"multirun/runs/{run_folder.name}/")
    assert found.path == run_folder
    assert found.class_names == tuple("0123456789")
    assert found.image_shape == (8, 8, 1)
    assert found.config.model.name == "tiny"


def test_a_name(working_folder: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(working_folder)
    assert find_run(run_folder.name).path == run_folder
    assert find_run_folder(run_folder.name) == run_folder
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"the name of a run"):
        find_run(run_folder.name)
    for name, time in (("b", 1), ("a", 3), ("c", 2)):
        model = tmp_path / "multirun/runs" / name / "model.keras"
        model.parent.mkdir(parents=True)
        model.touch()
        os.utime(model, (time, time))
    with pytest.raises(UserError, match=r"The newest run here: multirun/runs/a$"):
        find_run("2026-01-01_00-00-00_000000")


def test_what_mlflow_knows(
    working_folder: Path, run_folder: Path, result: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store(working_folder))
    client = mlflow.MlflowClient(store(working_folder))
    run = client.get_run(result["mlflow_run_id"])
    model_id = run.outputs.model_outputs[0].model_id
    client.create_registered_model("digits")
    version = client.create_model_version("digits", f"models:/{model_id}", run_id=run.info.run_id)
    client.set_registered_model_alias("digits", "champion", version.version)
    for reference in (
        result["mlflow_run_id"],
        f"runs:/{result['mlflow_run_id']}",
        f"runs:/{result['mlflow_run_id']}/model",
        "models:/digits@champion",
        "models:/digits/1",
        f"models:/{model_id}",
    ):
        assert find_run(reference, store(working_folder)).path == run_folder, reference


def test_a_run_of_another_machine_is_fetched(
    working_folder: Path, run_folder: Path, result: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    away = run_folder.with_name("away")
    run_folder.rename(away)
    try:
        found = find_run(result["mlflow_run_id"], store(working_folder))
    finally:
        away.rename(run_folder)
    assert found.path == tmp_path / "multirun/fetched" / result["mlflow_run_id"]
    assert found.result == result
    assert found.class_names == tuple("0123456789")
    for name in ("dataset.json", "provenance/starts.json"):  # which images it was trained on, and its precision
        assert (found.path / name).read_bytes() == (run_folder / name).read_bytes()


def test_the_best_of_a_sweep(run_folder: Path, tmp_path: Path) -> None:
    trials = []
    for job, accuracy in enumerate((0.3, 0.5, 0.5, 0.9)):
        folder = shutil.copytree(run_folder, tmp_path / str(job))
        results_ = json.loads((folder / "result.json").read_text())
        results_["metrics"]["val/accuracy"] = accuracy
        results_["status"] = "FAILED" if job == 3 else "FINISHED"
        (folder / "result.json").write_text(json.dumps(results_))
        trials.append(
            {"job": job, "overrides": [], "params": {"seed": "0", "depth": str(job)}, "hash": "", "trial": None}
        )
    study = {"objective": None, "direction": "maximize", "points": trials, "created": 0}
    (tmp_path / "sweep.json").write_text(json.dumps(study))
    assert find_run(f"best:{tmp_path}").path == tmp_path / "1"
    with pytest.raises(UserError, match="best:"):
        find_run(tmp_path)


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        ("nowhere", "found nothing of that name"),
        ("best:nowhere", "sweep"),
        ("0" * 32, "run"),
        ("models:/nobody@champion", "nobody"),
        ("models:/m-1", "m-1"),
        (".", "a folder of something else"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(
    working_folder: Path, reference: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(working_folder)
    with pytest.raises(UserError, match=word) as error:
        find_run(reference)
    assert len(str(error.value).splitlines()) == 1


def test_a_run_may_have_the_name_of_the_folder_of_its_photos(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/cat").mkdir(parents=True)
    with pytest.raises(UserError, match=r"photos: expected a run folder, .* received a folder of something else"):
        find_run("photos")
    shutil.copytree(run_folder, tmp_path / "multirun/runs/photos")
    assert find_run("photos").path.samefile("multirun/runs/photos")
    assert find_run(tmp_path / "multirun/runs/photos").path.samefile("multirun/runs/photos")


def test_no_store_is_made_by_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--uri"):
        find_run("0" * 32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.keras", "result.json"])
def test_damaged_folders_are_named(run_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / name).write_bytes(b"\x00damaged")
    with pytest.raises(UserError, match=name):
        assert find_run(folder).class_names
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        find_run(folder)


def test_dataset_and_trainer_can_be_overridden(run_folder: Path) -> None:
    config = find_run(run_folder).config
    path = "/photos, (2023)"  # as it is typed
    other = apply_overrides(config, [f"dataset.path={path}", "dataset=image_folder", "trainer.batch_size=3"])
    assert (other.dataset.name.value, other.dataset.path, other.trainer.batch_size) == ("image_folder", path, 3)
    assert other.trainer.epochs == config.trainer.epochs == 1
    assert config.dataset.name.value == "digits"
    for wrong in ("model.depth=3", "dataset.pth=x", "optimizer=sgd", "trainer.batch_size=0"):
        with pytest.raises(UserError, match=wrong.partition("=")[0].partition(".")[0]):
            apply_overrides(config, [wrong])


def test_config_of_a_run_is_not_changed(run_folder: Path) -> None:
    before = yaml.safe_load((run_folder / "config.yaml").read_text())
    apply_overrides(find_run(run_folder).config, ["dataset=cifar10"])
    assert yaml.safe_load((run_folder / "config.yaml").read_text()) == before


def test_a_shipped_model_is_a_run_by_its_name(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights/small"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "result.json"):
        shutil.copyfile(run_folder / name, folder / name)
    from tnt_exp.model import load, weights_file
    from tnt_exp.model.classifier import save_weights

    save_weights(load(run_folder / "model.keras"), folder / "model.safetensors")
    for module in ("model.weights_file", "finished_runs.find"):
        monkeypatch.setattr(f"tnt_exp.{module}.SHIPPED", tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    found = find_run("small")
    assert found.class_names == tuple("0123456789")
    assert found.image_shape == (8, 8, 1)
    assert found.output == tmp_path / "multirun/small"
    images = np.zeros((20, 8, 8), np.uint8)
    np.savez(tmp_path / "some.npz", images=images, labels=np.arange(20) % 10, class_names=list("0123456789"))
    config, own = test_images.configure(found, ["dataset=npz", f"dataset.path={tmp_path / 'some.npz'}"])
    assert len(test_images.read_images(found, config, own=own).split) == 4
    assert sorted(file.name for file in folder.iterdir()) == ["config.yaml", "model.safetensors", "result.json"]
    assert weights_file.find_weights("small") == folder / "model.safetensors"
    (tmp_path / "small").mkdir()  # what the user has comes first
    with pytest.raises(UserError, match=r"small/model\.keras"):
        weights_file.find_weights("small")
