"""One experiment, with fakes for what takes time."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tnt_exp import provenance
from tnt_exp.config.compose import compose
from tnt_exp.data import Dataset, Split
from tnt_exp.errors import UserError
from tnt_exp.experiment import Experiment
from tnt_exp.run import run_experiment
from tnt_exp.run_folder import RunFolder
from tnt_exp.signals import Signals
from tnt_exp.training.checkpoint import Checkpoint, CheckpointStore


def test_a_picture_that_fails_does_not_fail_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = Experiment(compose(["model=tiny"]), RunFolder(tmp_path), {}, Signals())
    split = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4, dtype=np.int32) % 2)
    dataset = Dataset("any", split, split, split, ("\udcff", "b"), "digest", 0)  # a name that no font can draw
    classifier: Any = SimpleNamespace(predict_on_batch=lambda images: np.eye(2)[[0, 1, 0, 0]])
    device: Any = SimpleNamespace(evaluation_batch_size=lambda size: 4)
    best: Any = SimpleNamespace(epoch=1, metrics={"val/accuracy": 0.5})
    augmentation: Any = lambda images, *_: (images / 255, None)  # noqa: E731
    caplog.set_level(logging.WARNING, "tnt_exp")
    preprocessing: Any = SimpleNamespace(preprocess=lambda images: images / 255)
    experiment._draw_samples(preprocessing, augmentation, dataset)
    experiment._test(classifier, dataset, device, best, [{"epoch": 1, "train/learning_rate": 1.0}])
    assert experiment.result["metrics"]["test/accuracy"] == 0.75
    assert caplog.text.count("without this picture: ") == 2
    assert (tmp_path / "plots/curves.png").stat().st_size > 0


@pytest.mark.parametrize("record", ["start", "checkpoint"])
def test_a_resumed_run_keeps_the_precision_with_which_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    """On another machine, too, for which `auto` would choose another one."""
    import keras

    from tnt_exp.training import device

    before = keras.config.dtype_policy()
    began = {"hardware": {"precision": "mixed_bfloat16"}}
    experiment = Experiment(compose(["trainer.precision=auto"]), RunFolder(tmp_path), {}, Signals())
    monkeypatch.setattr(device, "processor_info", lambda field: "fma avx2")
    try:
        experiment._prepare_device()
        assert experiment.result["hardware"]["precision"] == "float32"
        if record == "start":
            provenance.record(tmp_path, **began)
            provenance.record(tmp_path, hardware={"precision": "float32"})
        else:
            store = CheckpointStore(experiment.folder.checkpoints, keep=1)
            store.save(Checkpoint(1, {}, {"result": began}))
            store.wait()
        experiment._prepare_device()
        assert experiment.result["hardware"]["precision"] == "mixed_bfloat16"
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


def test_patience_without_validation_images_of_the_data_is_refused(tmp_path: Path) -> None:
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "some.npz", x_train=images, y_train=np.arange(20) % 2, x_test=images, y_test=np.arange(20) % 2)
    keys = ["model=tiny", "dataset=npz", f"dataset.path={tmp_path / 'some.npz'}", "dataset.validation_fraction=0"]
    config = compose([*keys, "trainer.patience=3", "trainer.batch_size=4", "tracking=off"])
    with pytest.raises(UserError, match="expected null without validation images"):
        Experiment(config, RunFolder(tmp_path / "run"), {}, Signals()).train()


def test_a_run_that_is_refused_removes_nothing_of_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.zeros((20, 8, 8), np.uint8), labels=np.full(20, 3))
    config = compose(["model=tiny", "dataset=npz", f"dataset.path={tmp_path / 'bad.npz'}", "tracking=off"])
    mine, new = tmp_path / "mine", tmp_path / "new"
    mine.mkdir()
    (mine / "thesis.txt").write_text("two years")
    assert [run_experiment(config, folder=str(folder)) for folder in (mine, new)] == [2, 2]
    assert sorted(file.name for file in mine.iterdir()) == [".lock", "plots", "thesis.txt"]
    assert not new.exists()


@pytest.mark.parametrize(("classes", "images", "expected"), [(3, 30, 30), (100, 500, 100), (10, 400, 32)])
def test_samples_show_all_classes_before_and_after_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int, images: int, expected: int
) -> None:
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(
        "tnt_exp.reports.run_figures.draw_samples",
        lambda pixels, titles, file, **options: drawn.update(pixels=pixels, titles=titles),
    )
    labels = np.sort(np.arange(images, dtype=np.int32) % classes)  # sorted, as a folder is read
    split = Split(np.broadcast_to((labels % 256).astype(np.uint8)[:, None, None, None], (images, 8, 8, 1)), labels)
    dataset = Dataset("any", split, None, split, tuple(map(str, range(classes))), "digest", 0)
    config = compose(["model=tiny", "model.mean=[0]", "model.std=[1]"])
    classifier: Any = SimpleNamespace(preprocess=lambda images: images / 255)
    experiment = Experiment(config, RunFolder(tmp_path), {}, Signals())
    experiment._draw_samples(classifier, lambda images, *_: (images / 510, None), dataset)  # type: ignore[arg-type]
    assert len(drawn["titles"]) == expected
    assert list(dict.fromkeys(drawn["titles"])) == list(dataset.class_names)  # every class, in order
    shown = np.asarray(drawn["titles"], int)
    np.testing.assert_allclose(drawn["pixels"][:, 0, 0, 0], shown / 255, rtol=1e-6)
    np.testing.assert_allclose(drawn["pixels"][:, 0, -1, 0], shown / 510, rtol=1e-6)


def test_the_legend_says_what_training_does_otherwise(tmp_path: Path) -> None:
    for settings, expected in (
        (["augmentation=none", "trainer.label_smoothing=0"], []),
        (["augmentation=randaugment", "trainer.label_smoothing=0.1"], ["augmented", "smoothed labels"]),
        (["augmentation.horizontal_flip=0.5", "trainer.label_smoothing=0"], ["augmented"]),
    ):
        assert Experiment(compose(settings), RunFolder(tmp_path), {}, Signals())._training_differs() == expected
