"""What MLflow records of a sweep."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from finished_sweeps import runs

from tnt_exp.atomic_files import is_unlocked
from tnt_exp.config.schema import TrackingConfig
from tnt_exp.reports.leaderboard import rank_points
from tnt_exp.sweeps import results
from tnt_exp.sweeps.mlflow_observer import MlflowObserver
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.tracking.client import init_sqlite_store
from tnt_exp.tracking.mirror import Mirror

GRID = ["model.embed_dim=32,64", "seed=1,0", "tracking=default"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, new_folder: Any, store: Path) -> Any:
    """Two widths, each with two seeds."""
    folder = new_folder(tmp_path_factory.mktemp("finished"), store)
    folder.run(*GRID)
    return folder


def test_a_parent_names_its_children_and_the_best(finished: Any, tmp_path: Path) -> None:
    folder = finished
    (parent,), children = runs(folder.path)
    assert parent.info.status == "FINISHED"
    assert len(children) == 4
    for child in children:
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["sweep_id"] == folder.sweep.name
        assert child.data.tags["command"].startswith("tnt-exp train model=tiny")
    assert sorted(child.data.tags["sweep_job"] for child in children) == ["0", "1", "2", "3"]

    best = next(child for child in children if child.data.tags["sweep_job"] == "2")
    assert parent.data.tags["best_run_id"] == best.info.run_id
    assert f"runs/{best.info.run_id}" in parent.data.tags["mlflow.note.content"]
    client = mlflow.MlflowClient(f"sqlite:///{folder.path / 'mlflow.db'}")
    local = Path(client.download_artifacts(parent.info.run_id, "", str(tmp_path / "artifacts")))
    names = {str(file.relative_to(local)) for file in local.rglob("*") if file.is_file()}
    assert names == {
        "leaderboard.csv",
        "leaderboard.json",
        "points.csv",
        "report.html",
        "plots/parallel_coordinates.svg",
        "plots/objective_against_model.embed_dim.svg",
        "plots/objective_against_seed.svg",
        "plots/curves_of_the_best.svg",
    }
    with (local / "leaderboard.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["model.embed_dim"] for row in table] == ["64", "32"]
    assert float(table[0]["best/val/accuracy"]) == pytest.approx(0.9995)
    assert float(table[0]["std"]) == pytest.approx(0.001 / 2**0.5)
    assert table[0]["runs"] == "2"


def test_no_run_is_left_running_or_doubled(tmp_path: Path, new_folder: Any, store: Path) -> None:
    folder = new_folder(tmp_path, store)
    arguments = ["seed=1,2,3", "tracking=default", "trainer.epochs=3", "tracking.run_name=sleep0.5"]
    for job, number in ((0, signal.SIGKILL), (1, signal.SIGTERM)):
        process = folder.start(*arguments)
        while not list(folder.path.glob(f"multirun/sweeps/*/{job}/metrics.csv")):
            time.sleep(0.05)
            assert process.poll() is None, process.communicate()[0]
        process.send_signal(number)
        process.communicate(timeout=60)
    folder.run(*arguments)
    (parent,), children = runs(folder.path)
    assert parent.info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 3
    assert len({child.data.tags["run_folder"] for child in children}) == 3
    results = {result["mlflow_run_id"] for result in folder.results().values()}
    assert results == {child.info.run_id for child in children}


def test_a_run_that_was_killed_is_reported_and_a_next_try_takes_its_place(
    tmp_path: Path, new_folder: Any, store: Path
) -> None:
    folder = new_folder(tmp_path, store)
    folder.run("seed=5", "tracking=default", "tracking.run_name=die", "sweep.retries=1", code=1)
    assert folder.begins() == {0: 2}
    (parent,), (child,) = runs(folder.path)
    assert (parent.info.status, child.info.status) == ("FAILED", "KILLED")
    assert child.data.tags["cause"] == "signal"


def test_a_store_that_was_killed_while_it_was_made_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    make = "import sys; from tnt_exp.tracking.client import init_sqlite_store; init_sqlite_store(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", make, f"sqlite:///{file}"])
    while not (tmp_path / "mlflow.db.part").exists():
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.3)  # some of its tables are there
    process.kill()
    process.wait()
    assert not file.exists()
    init_sqlite_store(f"sqlite:///{file}")
    assert mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()


def test_the_record_of_mlflow_is_that_of_the_folder(finished: Any) -> None:
    folder = finished
    here = results.load_results(SweepStudy.open(folder.sweep))
    there = results.load_results_from_mlflow(f"sqlite:///{folder.path / 'mlflow.db'}", folder.sweep.name)
    assert [(row.job, row.state, row.command, row.place) for row in here.rows] == [
        (row.job, row.state, row.command, row.place) for row in there.rows
    ]
    assert here.objective == there.objective


def test_what_a_killed_trial_could_not_send_is_sent_when_the_sweep_continues(
    tmp_path: Path, new_folder: Any, store: Path
) -> None:
    """The trial and the sweep die together after the trial's last epoch, before MLflow has any of its values."""
    folder = new_folder(tmp_path, store)
    arguments = ["seed=1,2", "tracking=default", "trainer.epochs=2", "tracking.run_name=wait", "launcher.slots=1"]
    process = folder.start(*arguments)
    while not list(folder.path.glob("multirun/sweeps/*/0/metrics.csv")):
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    trial = folder.sweep / "0"
    # It had finished: what is left is to send it.
    while not is_unlocked(trial / ".lock"):
        time.sleep(0.05)
    result = {"status": "FINISHED", "metrics": {"val/accuracy": 0.75}, "epoch": 1}
    (trial / "result.json").write_text(json.dumps(result))
    (folder.sweep / "go").touch()
    folder.run(*arguments)
    _, children = runs(folder.path)
    child = next(child for child in children if child.data.tags["sweep_job"] == "0")
    assert child.info.status == "FINISHED"
    assert child.data.metrics["best/val/accuracy"] == 0.75


def test_both_leaderboards_rank_by_the_kept_epoch(finished: Any) -> None:
    """The last epochs of the wider network are worse than its kept ones, so that the last epochs rank otherwise."""
    for job, (last, kept) in enumerate([(0.75, 0.75), (0.5, 0.5), (0.25, 1.0), (0.25, 1.0)]):
        trial = finished.sweep / str(job)
        (trial / "metrics.csv").write_text(f"epoch,val/accuracy\n1,{kept}\n2,{last}\n")
        result = json.loads((trial / "result.json").read_text())
        (trial / "result.json").write_text(json.dumps(result | {"metrics": {"val/accuracy": kept}, "epoch": 1}))
        assert Mirror(trial).sync() is None
    here = results.load_results(SweepStudy.open(finished.sweep))
    there = results.load_results_from_mlflow(f"sqlite:///{finished.path / 'mlflow.db'}", finished.sweep.name)
    assert len(there.rows) == 4
    for found in (here, there):
        ranking = rank_points(found.rows, maximize=True)
        assert [(point.params["model.embed_dim"], point.mean) for point in ranking] == [("64", 1.0), ("32", 0.625)]


def test_a_search_that_is_stopped_before_its_first_trial_has_a_parent(tmp_path: Path, store: Path) -> None:
    shutil.copy(store, tmp_path / "mlflow.db")
    study = SweepStudy.new(
        tmp_path / "sweep", command=["..."], config_dir=None, search={}, objective=None, direction="maximize"
    )
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    MlflowObserver.of(study, tracking, ["model.depth"]).finish("KILLED")
    (parent,), children = runs(tmp_path)
    assert (parent.info.status, parent.data.tags["swept"], children) == ("KILLED", "model.depth", [])
    mlflow.MlflowClient(tracking.uri).delete_tag(parent.info.run_id, "objective")  # older versions set none
    found = results.load_results_from_mlflow(str(tracking.uri), study.id)
    assert (found.objective, found.verdict) == ("val/accuracy", ["No trial has finished with val/accuracy."])
