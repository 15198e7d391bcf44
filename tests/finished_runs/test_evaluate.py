"""`tnt-exp evaluate` and `tnt_exp.load`."""

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import pytest
from finished_runs.conftest import tnt_exp as tnt_exp_command
from finished_runs.refused_command import with_slow_imports_printed
from PIL import Image

import tnt_exp
from tnt_exp import data
from tnt_exp.cli import main
from tnt_exp.config.compose import compose
from tnt_exp.errors import UserError
from tnt_exp.evaluation import Evaluation
from tnt_exp.finished_runs import find_run


def evaluation(run_folder: Path, name: str = "evaluation") -> dict:
    return json.loads((run_folder / name / "evaluation.json").read_text())


def test_figures_are_those_of_training_to_the_bit(
    working_folder: Path, run_folder: Path, result: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run_folder)]) == 0
    assert capsys.readouterr().out.count("as training reported") == 5
    report = evaluation(run_folder)
    for name in ("loss", "accuracy", "top5_accuracy", "balanced_accuracy", "macro_f1"):
        assert report["metrics"][f"eval/{name}"] == result["metrics"][f"test/{name}"], name
    assert {row["class"]: row["accuracy"] for row in report["classes"]} == result["class_accuracy"]
    assert sum(row["images"] for row in report["classes"]) == report["images"] == 359
    for picture in ("confusion_matrix.png", "mistakes.png"):
        assert (run_folder / "evaluation" / picture).stat().st_size > 10_000
    run = mlflow.MlflowClient(f"sqlite:///{working_folder / 'mlflow.db'}").get_run(result["mlflow_run_id"])
    assert report["metrics"].items() <= run.data.metrics.items()
    assert run.info.status == "FINISHED"


def test_a_run_with_test_time_flip_is_measured_so(tmp_path: Path) -> None:
    small = ["model=tiny", "trainer.epochs=1", "tracking=off", "run.name=run", "augmentation.repeats=4"]
    tnt_exp_command(tmp_path, "train", *small, "trainer.test_time_flip=true")
    folder = tmp_path / "multirun" / "runs" / "run"
    reported = find_run(folder).result["metrics"]["test/loss"]

    def loss(*overrides: str) -> float:
        assert main(["evaluate", str(folder), *overrides]) == 0
        report = evaluation(folder)
        assert report["test_time_flip"] is not bool(overrides)
        return report["metrics"]["eval/loss"]

    alone = loss("trainer.test_time_flip=false")
    assert alone != reported
    assert loss("trainer.test_time_flip=null") == alone  # digits are trained without mirroring
    assert loss() == reported


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], False),
        (["trainer.test_time_flip=true"], True),
        (["trainer.test_time_flip=null"], False),
        (["trainer.test_time_flip=null", "augmentation=crop_flip"], True),
        (["trainer.test_time_flip=false", "augmentation=crop_flip"], False),
        (["experiment=photos"], True),
        (["experiment=photos", "augmentation.horizontal_flip=0"], False),  # hands, letters
    ],
)
def test_null_flips_test_images_where_training_mirrors(overrides: list[str], expected: bool) -> None:
    assert compose(overrides).flips_test_images is expected


def test_other_images_with_the_same_classes(run_folder: Path, tmp_path: Path) -> None:
    dataset = data.load_dataset(find_run(run_folder).config.dataset)
    # The same images, enlarged, under class numbers that run the other way.
    large = dataset.test.images.repeat(3, axis=1).repeat(3, axis=2)
    file = tmp_path / "large.npz"
    names = np.array(dataset.class_names[::-1])
    arrays = {"x_train": large, "y_train": 9 - dataset.test.labels, "x_test": large, "y_test": 9 - dataset.test.labels}
    np.savez(file, **arrays, class_names=names)
    assert main(["evaluate", str(run_folder), "dataset=npz", f"dataset.path={file}"]) == 0
    report = evaluation(run_folder, "evaluation_large")
    assert report["metrics"]["eval/large/accuracy"] == pytest.approx(
        find_run(run_folder).result["metrics"]["test/accuracy"], abs=0.1
    )
    assert [row["class"] for row in report["classes"]] == list("0123456789")


def test_a_folder_has_the_size_and_the_channels_of_the_run(run_folder: Path, tmp_path: Path) -> None:
    run, test = tnt_exp.Run(run_folder), data.load_dataset(find_run(run_folder).config.dataset).test
    for number, (image, label) in enumerate(zip(test.images[:40], test.labels, strict=False)):
        file = tmp_path / "drawn, (2023)" / str(label) / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(file)
    with pytest.raises(UserError, match="expected images of 1 channels"):
        run.evaluate(["dataset=image_folder", f"dataset.path='{tmp_path / 'drawn, (2023)'}'", "dataset.channels=3"])
    measured = run.evaluate(str(tmp_path / "drawn, (2023)"))
    assert measured == pytest.approx(run.evaluate((test.images[:40], test.labels[:40])), rel=1e-5)


def test_another_split_of_the_same_images_has_none_of_training(run_folder: Path, result: dict) -> None:
    assert main(["evaluate", str(run_folder), "dataset.test_fraction=0.9"]) == 0
    report = evaluation(run_folder, "evaluation_digits")
    assert report["notes"] == ["1258 of 1617 images are left out: the run was trained on them"]
    assert report["metrics"]["eval/digits/loss"] == pytest.approx(result["metrics"]["test/loss"], rel=1e-6)


def test_images_of_other_channels_are_refused(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "rgb.npz", x_train=images, y_train=labels)
    expected = "expected images of 1 channels, as the model was trained on, received"
    for command in ("evaluate", "export"):
        settings = ["format=keras"] if command == "export" else []
        assert main([command, str(run_folder), *settings, "dataset=npz", f"dataset.path={tmp_path / 'rgb.npz'}"]) == 2
        assert capsys.readouterr().err == f"tnt-exp: dataset=npz: {expected} 3.\n"
    for array, received in ((images, "3"), (images[..., 0], "an array of shape (20, 8, 8)")):
        with pytest.raises(UserError, match=re.escape(f"data: {expected} {received}.")):
            tnt_exp.Run(run_folder).evaluate((array, labels))
    grey = images[..., :1]
    for wrong in (np.eye(10)[labels], labels / 3, labels.astype(str)):  # one-hot, or what int() would cut
        with pytest.raises(UserError, match=r"^data: labels: expected whole numbers \(images,\), received "):
            tnt_exp.Run(run_folder).evaluate((grey, wrong))
    run = tnt_exp.Run(run_folder)
    assert run.evaluate((grey, labels[:, None])) == run.evaluate((grey, labels))  # Keras' data sets have such labels
    with pytest.raises(UserError, match=r"^overrides: expected texts"):
        run.evaluate([grey, labels])


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["dataset=cifar10"], "channels"),
        (["dataset=npz"], "dataset.path"),
        (["dataset=image_folder", "dataset.path=/nowhere", "dataset.image_size=8"], "/nowhere"),
        (["model.depth=3"], "model.depth"),
    ],
)
def test_bad_input_ends_before_anything_slow(run_folder: Path, overrides: list[str], word: str) -> None:
    done = with_slow_imports_printed("evaluate", str(run_folder), *overrides)
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_classes_are_named(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "pets.npz", x_train=images, y_train=labels, class_names=np.array(["cat", "dog"]))
    assert main(["evaluate", str(run_folder), "dataset=npz", f"dataset.path={tmp_path / 'pets.npz'}"]) == 2
    assert "cat, dog" in capsys.readouterr().err


def test_load_gives_a_keras_model(run_folder: Path) -> None:
    model = tnt_exp.load(run_folder)
    images = data.load_dataset(find_run(run_folder).config.dataset).test.images
    logits = model.predict(images, verbose=0)
    assert logits.shape == (359, 10)
    assert logits.dtype == np.float32
    assert model.class_names == tuple("0123456789")


def made(confidence: list[float], right: list[bool]) -> Evaluation:
    nothing = np.zeros(len(right), np.int64)
    return Evaluation(0, 0, 0, nothing, nothing, nothing, np.array(confidence), np.array(right), nothing)


def test_calibration_error_by_hand() -> None:
    # Bins of a tenth: in the last 3 of 4 right at .95, in the sixth 0 of 1 at .55.
    measured = made([0.95, 0.95, 0.95, 0.95, 0.55], [True, True, True, False, False])
    assert measured.calibration_error(10) == pytest.approx(4 / 5 * abs(0.75 - 0.95) + 1 / 5 * 0.55)
    assert made([1.0, 1.0], [True, True]).calibration_error() == 0


def test_mistakes_are_the_most_confident_first() -> None:
    measured = made([0.9, 0.5, 0.7, 0.8], [True, False, False, False])
    assert measured.mistakes(2).tolist() == [3, 2]
    assert made([0.9], [True]).mistakes(5).tolist() == []
