"""One experiment, with fakes for what takes time."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.data import Dataset, Split
from tnt_exp.errors import UserError
from tnt_exp.experiment import Experiment
from tnt_exp.run_folder import RunFolder
from tnt_exp.signals import Signals


def test_a_picture_that_fails_does_not_fail_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = Experiment(compose(["model=tiny"]), RunFolder(tmp_path), {}, Signals())
    split = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4, dtype=np.int32) % 2)
    dataset = Dataset("any", split, split, split, ("\udcff", "b"), "digest", 0)  # a name that no font can draw
    classifier: Any = SimpleNamespace(predict_on_batch=lambda images: np.eye(2)[[0, 1, 0, 0]])
    device: Any = SimpleNamespace(evaluation_batch_size=lambda size: 4)
    best: Any = SimpleNamespace(epoch=1, metrics={"val/accuracy": 0.5})
    augmentation: Any = lambda images, *_: (images / 255, None)  # noqa: E731
    caplog.set_level(logging.WARNING, "tnt_exp")
    experiment._draw_samples(augmentation, dataset)
    experiment._test(classifier, dataset, device, best, [{"epoch": 1, "train/learning_rate": 1.0}])
    assert experiment.result["metrics"]["test/accuracy"] == 0.75
    assert caplog.text.count("without this picture: ") == 2
    assert (tmp_path / "plots/curves.png").stat().st_size > 0


def test_patience_without_validation_images_of_the_data_is_refused(tmp_path: Path) -> None:
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "some.npz", x_train=images, y_train=np.arange(20) % 2, x_test=images, y_test=np.arange(20) % 2)
    keys = ["model=tiny", "dataset=npz", f"dataset.path={tmp_path / 'some.npz'}", "dataset.validation_fraction=0"]
    config = compose([*keys, "trainer.patience=3", "trainer.batch_size=4", "tracking=off"])
    with pytest.raises(UserError, match="expected null without validation images"):
        Experiment(config, RunFolder(tmp_path / "run"), {}, Signals()).train()
