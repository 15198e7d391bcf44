"""Runs read from their folders have the values that MLflow has of them."""

import os
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from tracking.fake_folder import FakeFolder

from tnt_exp.errors import UserError
from tnt_exp.finished_runs.collection import runs

MOST = {"parameters": 4994, "macs": 44528, "train_seconds": 1.25, "total_seconds": 2.5, "images_per_second": 0.1 + 0.2}


@pytest.fixture
def tracked(uri: str, tmp_path: Path) -> Path:
    """Four runs of an experiment: finished, failed, in progress, with values that repr and SQLite must keep."""
    for number, status in enumerate(("FINISHED", "FINISHED", "FAILED", None)):
        config = {"model": {"depth": number % 2, "mean": [0.5, 1e-7]}, "optimizer": {"learning_rate": 10.0**-number}}
        run = FakeFolder(tmp_path / f"multirun/runs/r{number}", config)
        run.begin(uri)
        run.record(1, 3 + number, scale=1 / 3)
        if status:
            run.finish(status, epoch=2, **MOST)
        assert run.sync() is None
    return tmp_path


def test_the_table_is_that_of_mlflow(uri: str, tracked: Path) -> None:
    mlflow.set_tracking_uri(uri)
    theirs = mlflow.search_runs(experiment_names=["fake"]).set_index("tags.run_folder")
    ours = runs(tracked / "multirun").table().set_index("path")
    assert {*ours.index} == {*theirs.index}
    compared = 0
    for name in ours.columns:
        for path in ours.index:
            mine = ours.loc[path, name]
            if f"metrics.{name}" in theirs and not pd.isna(mine) and name != "total_seconds":
                assert mine == theirs.loc[path, f"metrics.{name}"], (path, name)
                compared += 1
            elif f"params.{name}" in theirs:
                assert str(mine) == theirs.loc[path, f"params.{name}"], (path, name)
                compared += 1
    assert compared == 4 * (2 + 2) + 3 * 2 + 2 * (2 + 2)
    # And what MLflow has of these runs is in the table.
    absent = {name.removeprefix("metrics.") for name in theirs if name.startswith("metrics.")} - {*ours.columns}
    assert absent == set()
    finished = [path for path in ours.index if ours.loc[path, "state"] == "FINISHED"]
    assert [ours.loc[path, "total_seconds"] for path in finished] == [2.5, 2.5]
    assert [*theirs.loc[finished, "metrics.total_seconds"]] == [2.5, 2.5]


def test_an_experiment_is_found_by_its_name(uri: str, tracked: Path, caplog: pytest.LogCaptureFixture) -> None:
    for own in ("sqlite:///own.db", None):  # a script that looks at another store logs to its own afterwards
        mlflow.set_tracking_uri(own)
        before = dict(os.environ), mlflow.is_tracking_uri_set()
        assert len(runs("fake", uri=uri)) == 4
        assert (dict(os.environ), mlflow.is_tracking_uri_set()) == before
    assert [run.name for run in runs("fake", "state=FINISHED", uri=uri)] == ["r1", "r0"]
    (tracked / "multirun/runs/r0").rename(tracked / "elsewhere")
    assert len(runs("fake", uri=uri)) == 3
    assert "1 of 4 runs have no folder on this machine" in caplog.text
    with pytest.raises(UserError, match="nobody: expected a folder of runs"):
        runs("nobody", uri=uri)
