"""What `metrics.csv` holds of an epoch that an interrupted run repeats."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tnt_exp.run_folder import RunFolder, read_metrics


@pytest.mark.parametrize(("loss", "kept"), [(0.5, True), (0.25, False)])
def test_an_epoch_repeated_with_equal_values_keeps_its_times(tmp_path: Path, loss: float, kept: bool) -> None:
    from tnt_exp.training.trainer import EpochResult, Trainer

    folder = RunFolder(tmp_path)
    first = {"epoch": 1, "step": 7, "train/loss": 0.5, "train/images_per_second": 10.0, "seconds": 3.0, "time": 1000.5}
    folder.append_metrics(first)
    trainer = Trainer.__new__(Trainer)
    trainer.folder, trainer.state = folder, SimpleNamespace(rows=[])  # type: ignore[assignment]
    trainer._recorded = {row["epoch"]: row for row in read_metrics(tmp_path).rows}
    folder.write_metrics([])
    metrics = {"train/loss": loss, "train/images_per_second": 20.0}
    trainer._record(EpochResult(1, 7, metrics, 4.0), metrics)
    (row,) = trainer.state.rows
    assert row["train/loss"] == loss
    if kept:
        assert row == first
    else:
        assert (row["train/images_per_second"], row["seconds"]) == (20.0, 4.0)
        assert row["time"] > 1e9
    assert [float(value) for value in read_metrics(tmp_path).rows[0].values()] == list(row.values())


def test_a_run_of_an_older_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    from tnt_exp.training.trainer import EpochResult, Trainer

    folder = RunFolder(tmp_path)
    first = {"epoch": 1, "step": 7, "val/accuracy": 0.5, "seconds": 3.0, "time": 1000.5}
    folder.append_metrics(first)
    trainer = Trainer.__new__(Trainer)
    trainer.folder, trainer.state, trainer._recorded = folder, SimpleNamespace(rows=[first]), {}  # type: ignore[assignment]
    for epoch in (2, 3):
        metrics = {"val/accuracy": 0.6, "val/macro_f1": 0.25 * epoch}
        trainer._record(EpochResult(epoch, 7 * epoch, metrics, 4.0), metrics)
    rows = read_metrics(tmp_path).rows
    assert [row["val/accuracy"] for row in rows] == ["0.5", "0.6", "0.6"]
    assert [row["val/macro_f1"] for row in rows] == ["", "0.5", "0.75"]
    assert read_metrics(tmp_path).epoch == 3
