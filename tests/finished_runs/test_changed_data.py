"""A run of photos after its folder has grown, beside other folders, and in a project that was moved."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import preloaded
import pytest
from PIL import Image
from tracking.servers import runs

import tnt_exp
from tnt_exp import provenance
from tnt_exp.run_folder import RunFolder

RUN = "multirun/runs/mine"


def tnt(folder: Path, *arguments: str, code: int = 0) -> str:
    done = preloaded.run([*arguments], folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def draw(folder: Path, first: int, last: int) -> None:
    """Save images first..last-1 of two classes, each of its own noise."""
    for label, name in enumerate(("bright", "dark")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, last):
            pixels = np.random.default_rng([label, number]).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with photos and a run of them."""
    folder = tmp_path_factory.mktemp("original")
    draw(folder / "photos", 0, 20)
    settings = ["model=tiny", "dataset=image_folder", "dataset.path=photos", "dataset.image_size=8", "run.name=mine"]
    tnt(folder, "train", *settings, "trainer.epochs=1", "trainer.batch_size=4", "tracking.system_metrics=false")
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """The project, copied to another place; the original stays where it is."""
    return Path(shutil.copytree(trained, tmp_path / "project"))


def report(project: Path, name: str = "evaluation") -> dict:
    return json.loads((project / RUN / name / "evaluation.json").read_text())


def test_new_photos_are_not_test_images(project: Path) -> None:
    reported = json.loads((project / RUN / "result.json").read_text())["metrics"]
    draw(project / "photos", 100, 106)
    output = tnt(project, "evaluate", RUN, "--uri", "sqlite:///mlflow.db")
    assert "12 images were added since training" in output
    assert report(project)["images"] == 8
    assert report(project)["metrics"]["eval/loss"] == pytest.approx(reported["test/loss"], abs=1e-5)


def test_images_that_the_run_did_not_use_were_not_added(project: Path) -> None:
    """Those beyond a limit, those of a test folder beside folds, and unreadable ones."""
    for name, count in (("train", 20), ("test", 4)):
        draw(project / "split" / name, 0, count)
    (project / "split/train/dark/junk.png").write_bytes(b"junk")
    settings = ["model=tiny", "dataset=image_folder", "dataset.path=split", "dataset.image_size=8", "run.name=part"]
    settings += ["dataset.train_limit=16", "dataset.folds=4", "dataset.on_error=skip", "tracking=off"]
    tnt(project, "train", *settings, "trainer.epochs=1", "trainer.batch_size=4")
    assert tnt(project, "evaluate", "part").count("as training reported") == 5
    draw(project / "split/train", 30, 33)
    assert "6 images were added since training" in tnt(project, "evaluate", "part")
    file = project / "multirun/runs/part/dataset.json"
    recorded = json.loads(file.read_text())
    assert recorded.pop("listed") == 49
    file.write_text(json.dumps(recorded))  # as older versions wrote it
    assert "added" not in tnt(project, "evaluate", "part")


def test_test_images_that_are_gone_are_left_out(project: Path) -> None:
    recorded = RunFolder(project / RUN).read_dataset()["files"]["test"]
    (project / "photos" / recorded[0][0]).unlink()
    (project / "photos" / recorded[1][0]).write_bytes(b"unreadable")
    memory = ["dataset.memory_limit=0", "dataset.on_error=skip"]  # how images are read, not which
    for overrides in ([], memory, [f"dataset.path={project / 'photos'}"]):
        output = tnt(project, "evaluate", RUN, *overrides, "--uri", "sqlite:///mlflow.db")
        assert "2 of the run's 8 test images have changed or are gone" in output
        assert report(project)["images"] == 6
        shutil.rmtree(project / RUN / "evaluation")


def test_export_compares_on_the_test_images_of_the_run(project: Path) -> None:
    draw(project / "photos", 100, 106)
    output = tnt(project, "export", RUN, "format=onnx", "quantize=int8")
    assert "accuracy on 8 test images" in output
    assert "note: the folder has changed: 12 images were added" in output
    (project / "else").mkdir()
    assert "model.keras" in tnt(project / "else", "export", f"../{RUN}", "format=keras")


def test_another_folder_is_measured_whole_without_images_of_training(project: Path) -> None:
    draw(project / "more", 50, 60)
    tnt(project, "evaluate", RUN, "dataset.path=more", "--uri", "sqlite:///mlflow.db")
    found = report(project, "evaluation_more")
    assert found["images"] == 20
    tnt(project, "evaluate", RUN, "dataset=image_folder", "dataset.path=more", "--uri", "sqlite:///mlflow.db")
    assert report(project, "evaluation_more") == found
    measured = tnt_exp.Run(project / RUN).evaluate(str(project / "more"))
    assert measured["loss"] == pytest.approx(found["metrics"]["eval/more/loss"], rel=1e-5)
    shutil.copytree(project / "photos", project / "mixed")
    draw(project / "mixed", 50, 60)
    assert "Write dataset.path=mixed" in tnt(project, "evaluate", RUN, "mixed", code=2)
    output = tnt(project, "evaluate", RUN, "dataset.path=mixed", "--uri", "sqlite:///mlflow.db")
    seen = sum(len(RunFolder(project / RUN).read_dataset()["files"][part]) for part in ("train", "validation"))
    assert f"{seen} of 60 images are left out" in output
    found = report(project, "evaluation_mixed")
    assert found["images"] == 60 - seen
    # The digest is that of the images that were measured, in whatever folder they are.
    shutil.copytree(project / "mixed", project / "fresh")
    for part in ("train", "validation"):
        for name, _, _ in RunFolder(project / RUN).read_dataset()["files"][part]:
            (project / "fresh" / name).unlink()
    tnt(project, "evaluate", RUN, "dataset.path=fresh", "--uri", "sqlite:///mlflow.db")
    assert report(project, "evaluation_fresh")["dataset_digest"] == found["dataset_digest"]


def test_a_run_that_was_fetched_is_not_measured_on_images_of_training(project: Path) -> None:
    run_id = json.loads((project / RUN / "result.json").read_text())["mlflow_run_id"]
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    client.set_tag(run_id, "run_folder", "/nowhere")
    (project / "multirun").rename(project / "away")
    fetched = project / "multirun/fetched" / run_id
    output = tnt(project, "evaluate", run_id, "dataset.path=./photos")  # the run's own folder
    assert "8 test images" in output
    assert "as training reported" in output
    shutil.copytree(project / "photos", project / "copies")
    for _ in range(2):
        output = tnt(project, "evaluate", run_id, "dataset.path=copies")
        assert "32 of 40 images are left out: the run was trained on them" in output
        assert f"and to MLflow run {run_id}" in output
        (fetched / "dataset.json").unlink()  # as an older version left the folder
    found = json.loads((fetched / "evaluation_copies/evaluation.json").read_text())
    assert found["images"] == 8
    assert client.get_run(run_id).data.metrics["eval/copies/loss"] == found["metrics"]["eval/copies/loss"]


def test_only_images_of_training_are_refused(project: Path) -> None:
    for name, _, _ in RunFolder(project / RUN).read_dataset()["files"]["train"]:
        target = project / "known" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / "photos" / name, target)
    output = tnt(project, "evaluate", RUN, "dataset.path=known", code=2)
    assert "expected images that the run was not trained on, found none" in output


def test_two_folders_of_the_same_name_have_results_of_their_own(project: Path) -> None:
    for parent in ("a", "b"):
        draw(project / parent / "new_", 70 if parent == "a" else 80, 75 if parent == "a" else 88)
        tnt(project, "evaluate", RUN, f"dataset.path={parent}/new_", "--uri", "sqlite:///mlflow.db")
    counts = [
        json.loads(file.read_text())["images"] for file in (project / RUN).glob("evaluation_new_*/evaluation.json")
    ]
    assert sorted(counts) == [10, 16]


def test_a_run_is_not_resumed_with_other_photos(project: Path) -> None:
    draw(project / "photos", 100, 101)
    output = tnt(project, "resume", RUN)  # finished: nothing to do
    assert "nothing to do" in output
    command = ["model=tiny", "dataset=image_folder", "dataset.path=photos", "dataset.image_size=8", "run.name=mine"]
    command += ["trainer.epochs=3", "trainer.batch_size=4", "tracking.system_metrics=false"]
    before = json.loads((project / RUN / "result.json").read_text())
    assert "31 training images instead of 29" in tnt(project, "train", *command, code=2)
    assert json.loads((project / RUN / "result.json").read_text()) == before


def test_a_project_that_was_moved_finds_its_artifacts(trained: Path, tmp_path: Path) -> None:
    first = Path(shutil.copytree(trained, tmp_path / "mlartifacts-first"))  # not the folder of artifacts itself
    shutil.rmtree(first / "mlartifacts")
    shutil.rmtree(first / "multirun")
    (first / "mlflow.db").unlink()
    settings = ["model=tiny", "run.name=digits", "trainer.epochs=1", "dataset.train_limit=300"]
    tnt(first, "train", *settings, "tracking.system_metrics=false")
    moved = first.rename(tmp_path / "moved here, & renamed")
    assert "moved" in tnt(moved, "doctor", code=1)
    tnt(moved, "doctor", "--fix")
    assert "no problems found" in tnt(moved, "doctor")
    client = mlflow.MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    (run,) = runs(f"sqlite:///{moved / 'mlflow.db'}")
    assert "config.yaml" in {file.path for file in client.list_artifacts(run.info.run_id)}
    assert str(first) not in run.info.artifact_uri
    again = moved.rename(tmp_path / "moved [again]")
    for name in ("mlflow/delivered.json", "result.json"):
        (again / "multirun/runs/digits" / name).touch()  # they are files to send, of another time
    assert "values sent" in tnt(tmp_path, "sync", "moved [again]")
    assert not moved.exists()
    assert "no problems found" in tnt(again, "doctor")


def test_relative_paths_of_a_moved_run_count_from_its_project(project: Path) -> None:
    file = project / RUN / "provenance/starts.json"
    assert provenance.working_folders(project / RUN)[1:] == [project]  # the original is there
    file.write_text(json.dumps([{**json.loads(file.read_text())[-1], "cwd": str(project / "gone")}]))
    assert provenance.working_folders(project / RUN) == [project]
    assert "finished before" in tnt(project.parent, "resume", f"project/{RUN}")
