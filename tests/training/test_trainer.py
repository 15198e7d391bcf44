import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest

from tnt_exp.config.compose import compose
from tnt_exp.config.trainer import Monitor, Select
from tnt_exp.data import Dataset, Split
from tnt_exp.run_folder import RunFolder
from tnt_exp.signals import Signals
from tnt_exp.training.device import Device
from tnt_exp.training.train_state import BestWeights
from tnt_exp.training.trainer import InputTimer, Trainer


def test_waiting_is_the_readers_time_alone() -> None:
    def slow():  # type: ignore[no-untyped-def]
        for item in range(4):
            time.sleep(0.05)
            yield item

    waiting, items = InputTimer(), []
    for item in waiting.wrap(slow()):
        items.append(item)
        time.sleep(0.1)
    assert items == [0, 1, 2, 3]
    assert waiting.seconds == pytest.approx(0.2, abs=0.1)


def test_epoch_whose_loss_is_not_finite_is_never_better() -> None:
    best, kept = BestWeights(Select.best, patience=3), []
    for epoch, (accuracy, loss) in enumerate(
        [(1.0, math.nan), (0.2, 1.0), (1.0, math.nan), (0.9, math.inf), (0.2, 1.0)], start=1
    ):
        stop = best.update(epoch, {"val/accuracy": accuracy, "val/loss": loss}, SimpleNamespace(variables=[]))  # type: ignore[arg-type]
        kept.append(best.epoch)
    assert kept == [1, 2, 2, 2, 2]  # the first for want of another
    assert stop


class FakeStep:
    """A training step that trains nothing; `first` are the numbers of the first steps of its calls."""

    def __init__(self) -> None:
        self.first: list[int] = []

    def __call__(self, images: Any, labels: Any, first: int, rates: Sequence[float], mixing: float) -> np.ndarray:
        self.first.append(first)
        return np.array([1, 0, 0, labels.size, labels.size], np.float32)

    def sync_to_model(self) -> None: ...


def trainer(folder: Path, *overrides: str, accuracy: Sequence[float] = (), steps: int = 20, chunk: int = 7) -> Any:
    """A trainer of one variable with `steps` fake steps per epoch and the given accuracies on validation."""
    config = compose(["model=tiny", "trainer.batch_size=2", *overrides])
    split = Split(np.zeros((2 * steps, 8, 8, 1), np.uint8), np.zeros(2 * steps, np.int32))
    variables = [keras.Variable(np.zeros(2, np.float32))]
    classifier: Any = SimpleNamespace(variables=variables, trainable_variables=variables)
    dataset, device = Dataset("", split, None, split, ("a",), "", 0), Device("", "cpu", "", 1, False, chunk, "float32")
    made: Any = Trainer(config, classifier, dataset, device, RunFolder(folder), Signals(), {})
    made.step = FakeStep()
    made.saved = []
    save = made.checkpoints.save
    made.checkpoints.save = lambda step: (made.saved.append(step), save(step))

    def validate(epoch: Any) -> tuple[dict[str, float], bool]:
        metrics = {**epoch.metrics, "val/accuracy": accuracy[epoch.number - 1] if accuracy else 0.0, "val/loss": 1.0}
        return metrics, made.state.best.update(epoch.number, metrics, classifier)

    made._validate, made._compile = validate, lambda: made.step
    return made


def test_run_that_stopped_early_continues_where_it_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    curve = [0.1, 0.5, 0.4, 0.3, 0.2, 0.2, 0.6, 0.1, 0.1, 0.1]
    one = trainer(tmp_path, "trainer.epochs=12", "trainer.patience=2", "schedule=cosine", accuracy=curve)
    one.fit()
    assert [row["epoch"] for row in one.state.rows] == [1, 2, 3, 4]
    again = trainer(tmp_path, "trainer.epochs=12", "trainer.patience=2", "schedule=cosine", accuracy=curve)
    assert again.fit().epoch == 2  # it had stopped; nothing else has changed
    assert again.step.first == []
    caplog.set_level(logging.INFO, "tnt_exp")
    more = trainer(tmp_path, "trainer.epochs=16", "trainer.patience=3", "schedule=cosine", accuracy=curve)
    assert more.fit().epoch == 7
    assert more.step.first[0] == 4 * 20  # the first step of epoch 5
    assert [row["epoch"] for row in more.state.rows] == [*range(1, 11)]  # 7 is the best, and three epochs more
    # The cosine of 320 steps, of which 10 are warm-up.
    fifth = more.state.rows[4]["train/learning_rate"]
    assert fifth == pytest.approx(1e-3 * (1 + math.cos(math.pi * 89 / 309)) / 2)
    assert "trainer.patience counts anew" in caplog.text
    assert "stopped early: no better epoch within trainer.patience=3" in caplog.text
    caplog.clear()
    whole = trainer(tmp_path / "whole", "trainer.epochs=4", "trainer.patience=2", accuracy=curve)
    whole.fit()  # to its last epoch, where the patience ends, too
    assert "stopped early" not in caplog.text


def test_checkpoint_is_due_once_its_steps_have_passed(tmp_path: Path) -> None:
    often = trainer(tmp_path / "often", "trainer.epochs=2", "trainer.checkpoint.steps=5")
    often.fit()
    assert often.saved == [7, 14, 20, 27, 34, 40]  # 7 steps per call of the device, 20 per epoch
    rarely = trainer(tmp_path / "rarely", "trainer.epochs=3", "trainer.checkpoint.steps=12")
    rarely.fit()
    assert rarely.saved == [14, 27, 40, 48 + 6, 60]


def test_batches_that_accumulation_leaves_over_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path / "some", "trainer.epochs=2", "optimizer.accumulation=7").fit()
    assert "the last 5 batches make no update" in caplog.text
    caplog.clear()
    trainer(tmp_path / "none", "trainer.epochs=2", "optimizer.accumulation=8").fit()
    assert "update" not in caplog.text


def test_the_best_epoch_is_chosen_by_the_monitored_metric() -> None:
    epochs = [(0.9, 0.5, 0.4), (0.8, 0.7, 0.5), (0.8, 0.6, 0.6)]
    for monitor, wanted in ((Monitor.accuracy, 1), (Monitor.balanced_accuracy, 2), (Monitor.macro_f1, 3)):
        best = BestWeights(Select.best, None, monitor)
        for epoch, values in enumerate(epochs, start=1):
            names = ("accuracy", "balanced_accuracy", "macro_f1")
            metrics = {f"val/{name}": value for name, value in zip(names, values, strict=True)} | {"val/loss": 1.0}
            best.update(epoch, metrics, SimpleNamespace(variables=[]))  # type: ignore[arg-type]
        assert best.epoch == wanted
