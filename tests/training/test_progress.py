"""What the terminal shows of a run's progress."""

import logging
from types import SimpleNamespace

import pytest

from tnt_exp.training import progress
from tnt_exp.training.progress import ProgressBar
from tnt_exp.training.trainer import Trainer

METRICS = {"train/loss": 1.0, "train/accuracy": 0.5, "train/learning_rate": 1e-3, "train/images_per_second": 100.0}


def lines_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    epochs: int,
    steps: int,
    chunk: int,
    seconds: float = 2.0,
) -> list[str]:
    """What is printed: 50 seconds of compiling in the first step, then an epoch takes `seconds`; 0.1 validate."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock.now)
    with caplog.at_level(logging.INFO, "tnt_exp"), ProgressBar(epochs, epochs * steps) as shown:
        clock.now += 50.0
        for epoch in range(1, epochs + 1):
            for done in range(chunk, steps + 1, chunk):
                clock.now += (seconds - 0.1) * chunk / steps
                shown.on_step(epoch, done, steps, 32)
            clock.now += 0.1
            shown.on_epoch_end(epoch, METRICS)
    return [record.message for record in caplog.records]


def test_the_time_left_does_not_count_compiling(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_of(monkeypatch, caplog, epochs=40, steps=100, chunk=10)
    assert lines[0].endswith("left 1:14")  # 3,900 steps at 90 steps in 1.9 * 0.9 seconds
    assert [line.rpartition("left ")[2] for line in lines[1:3]] == ["1:16", "1:14"]
    assert lines[-1].endswith("left 0:00")


def test_an_epoch_of_one_chunk_says_nothing_at_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lines = lines_of(monkeypatch, caplog, epochs=3, steps=10, chunk=10)
    assert "left" not in lines[0]
    assert [line.rpartition("left ")[2] for line in lines[1:]] == ["0:02", "0:00"]


def test_a_long_epoch_has_a_line_per_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    lines = lines_of(monkeypatch, caplog, epochs=10, steps=20, chunk=1, seconds=190.1)
    assert lines[:3] == [
        "epoch  1/10 | step 2/20 | left 31:21",
        "epoch  1/10 | step 9/20 | left 30:14",
        "epoch  1/10 | step 16/20 | left 29:08",
    ]
    assert lines[3].startswith("epoch  1/10 | loss")
    assert lines[4].startswith("epoch  2/10 | step 7/20 | left ")


def test_a_learning_rate_that_jumps_where_a_run_continues_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    def report(recorded: float) -> list[str]:
        run = SimpleNamespace(
            state=SimpleNamespace(rows=[{"train/learning_rate": 9e-4}, {"train/learning_rate": recorded}]),
            batches=SimpleNamespace(steps_per_epoch=10),
            config=SimpleNamespace(trainer=SimpleNamespace(epochs=60)),
            _learning_rate=lambda step: 1e-3 - 1e-5 * step,
        )
        caplog.clear()
        with caplog.at_level(logging.INFO, "tnt_exp"):
            Trainer._report_new_schedule(run)  # type: ignore[arg-type]
        return [record.message.strip() for record in caplog.records]

    assert report(8.1e-4) == []  # the rate of step 19, as before
    assert report(1e-5) == ["the schedule is over 60 epochs now: learning rate 8.00e-04, after 1.00e-05"]
