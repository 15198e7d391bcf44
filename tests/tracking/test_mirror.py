"""The MLflow run of a folder equals the folder, whatever became of the folder, of the run, and of the store."""

import errno
import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from mlflow.entities import ViewType
from tracking.fake_folder import FakeFolder
from tracking.servers import points, runs, sync

from tnt_exp.config import Config
from tnt_exp.config.compose import compose
from tnt_exp.errors import UserError
from tnt_exp.run_folder import SYSTEM_METRICS
from tnt_exp.tracking import system_metrics
from tnt_exp.tracking.client import make_client, moved_from, newest_runs_url, resolve_tracking_uri, store_exists
from tnt_exp.tracking.doctor import find_problems
from tnt_exp.tracking.mirror import Mirror
from tnt_exp.tracking.record import NOTE, read_system_metrics
from tnt_exp.tracking.tracker import BaseTracker, Tracker, finalize_run


@pytest.fixture
def run(tmp_path: Path) -> FakeFolder:
    return FakeFolder(tmp_path / "run")


def curve(last: int, scale: float = 1.0) -> list[tuple[int, float]]:
    return [(epoch, scale / epoch) for epoch in range(1, last + 1)]


def the_run(uri: str, run: FakeFolder) -> mlflow.entities.Run:
    """The only run of the folder, which is the one that the folder names."""
    (found,) = [each for each in runs(uri) if each.data.tags["run_folder"] == str(run.path)]
    assert json.loads((run.path / "mlflow.json").read_text())["run_id"] == found.info.run_id
    result = run.folder.read_result()
    assert result.get("mlflow_run_id", found.info.run_id) == found.info.run_id
    return found


def test_the_kept_epoch_has_names_of_its_own(uri: str, run: FakeFolder) -> None:
    run.begin(uri)
    run.record(1, 5)
    run.finish(epoch=3, parameters=7, train_seconds=2.5)
    assert run.sync() is None
    found = the_run(uri, run).data
    assert (found.tags["best_epoch"], found.metrics["best/val/accuracy"], found.metrics["val/accuracy"]) == (
        "3",
        0.03,
        0.05,
    )
    assert "best/train/loss" not in found.metrics
    assert points(uri, the_run(uri, run), "train/loss")[2] == (3, 1 / 3)
    # MLflow draws bars of single values at step 0, and curves of one point at other steps.
    singles = {"best/val/accuracy": 0.03, "test/accuracy": 0.5, "model_parameters": 7.0, "train_seconds": 2.5}
    for name, value in singles.items():
        assert points(uri, the_run(uri, run), name) == [(0, value)]


def test_a_single_value_that_an_older_version_logged_at_the_kept_epoch_is_no_difference(
    uri: str, run: FakeFolder
) -> None:
    first = run.begin(uri)
    run.record(1, 5)
    mlflow.MlflowClient(uri).log_metric(first, "test/accuracy", 0.5, step=3)
    run.finish(epoch=3)
    assert Mirror(run.path).sync() is None
    assert the_run(uri, run).info.run_id == first


def test_a_run_that_ended_has_a_description_which_a_user_may_replace(uri: str, run: FakeFolder) -> None:
    """Of 9 images to train, 50 to validate and 40 to test; epochs 2 and 3 are equally accurate."""
    described = {"digest": "d", "name": "digits", "source": "digits", "shape": [8, 8, 1]}
    (run.path / "dataset.json").write_text(
        json.dumps({**described, "images": {"train": 9, "validation": 50, "test": 40}})
    )
    first = run.begin(uri)
    for epoch, accuracy in ((1, 0.5), (2, 0.9), (3, 0.9), (4, 0.8)):
        run.folder.append_metrics({"epoch": epoch, "val/accuracy": accuracy, "time": float(epoch)})
    assert run.sync() is None
    assert NOTE not in the_run(uri, run).data.tags
    hardware = {"name": "A CPU", "device": "cpu", "backend": "tensorflow"}
    metrics = {"val/accuracy": 0.9, "test/accuracy": 0.95}
    result = {"status": "FINISHED", "epoch": 3, "metrics": metrics, "train_seconds": 75.0, "hardware": hardware}
    run.folder.write_result({**result, "mlflow_run_id": first})
    assert run.sync() is None
    assert the_run(uri, run).data.tags[NOTE] == (
        "Epoch 3 was kept: validation accuracy 0.9000 (5 of 50 wrong), test accuracy 0.9500 (2 of 40 wrong). "
        "2 epochs have this validation accuracy. Trained for 1:15 on A CPU (cpu, tensorflow)."
    )


def test_a_description_that_a_user_wrote_stays(uri: str, run: FakeFolder) -> None:
    client, first = mlflow.MlflowClient(uri), run.begin(uri)

    def end(status: str, error: str) -> str | None:
        run.folder.write_result({"status": status, "error": error, "metrics": {}, "mlflow_run_id": first})
        assert run.sync() is None
        note: str | None = the_run(uri, run).data.tags.get(NOTE)
        return note

    assert end("KILLED", "stopped by SIGINT") == "Killed: stopped by SIGINT"
    run.begin(uri)
    assert run.sync() is None
    assert NOTE not in the_run(uri, run).data.tags  # it trains again
    client.set_tag(first, NOTE, "the one with the wrong labels")
    assert end("FAILED", "the disk is full") == "the one with the wrong labels"
    client.delete_tag(first, NOTE)
    assert end("FAILED", "the disk is full again") == "Failed: the disk is full again"


def test_an_experiment_is_model_training_and_has_columns_for_swept_keys(uri: str, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(uri)

    def view() -> dict[str, Any]:
        tags = client.get_experiment_by_name("fake").tags
        assert tags["mlflow.experimentKind"] == "custom_model_development"
        assert tags["mlflow.experiment.primaryMetric.name"] == "best/val/accuracy"
        found: dict[str, Any] = json.loads(tags["mlflow.sharedViewState.tnt-exp"])
        return found

    FakeFolder(tmp_path / "one").begin(uri)
    plain = view()["selectedColumns"]
    assert {"metrics.`best/val/accuracy`", "metrics.`test/accuracy`", "tags.`best_epoch`"} < set(plain)
    assert (view()["orderByKey"], view()["orderByAsc"]) == ("metrics.`best/val/accuracy`", False)
    FakeFolder(tmp_path / "two").begin(uri, swept="model.depth seed")
    FakeFolder(tmp_path / "three").begin(uri, swept="trainer.epochs")
    FakeFolder(tmp_path / "four").begin(uri)
    swept = ["params.`trainer.epochs`", "params.`model.depth`", "params.`seed`"]
    assert view()["selectedColumns"] == [*plain[:3], *swept, *plain[3:]]
    experiment = client.get_experiment_by_name("fake").experiment_id
    address = (
        f"http://127.0.0.1:1/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=tnt-exp"
    )
    assert newest_runs_url(uri, "http://127.0.0.1:1") == address


def test_epochs_that_are_repeated_with_equal_values_stay_in_the_run(uri: str, run: FakeFolder) -> None:
    first = run.begin(uri)
    run.record(1, 5)
    assert run.sync() is None
    assert run.begin(uri) == first
    run.rewrite(2)  # resumed from a checkpoint: epochs 3 to 5 are repeated
    with (run.path / "metrics.csv").open("a") as stream:
        stream.write("3,0.9")  # a full disk cut the row
    assert run.sync() is None
    assert points(uri, the_run(uri, run), "train/loss") == curve(5)
    run.rewrite(6)
    run.finish()
    assert run.sync() is None
    assert the_run(uri, run).info.run_id == first
    assert points(uri, the_run(uri, run), "train/loss") == curve(6)


def test_values_that_change_go_to_a_fresh_run_that_replaces_the_old_one(uri: str, run: FakeFolder) -> None:
    first = run.begin(uri, name="mine", **{"mlflow.parentRunId": "parent"})
    run.record(1, 3)
    assert run.sync() is None
    run.rewrite(3, scale=2.0)  # as after a rollback
    assert run.sync() is None
    found = the_run(uri, run)
    assert found.info.run_id != first
    assert (found.info.run_name, found.data.tags["mlflow.parentRunId"]) == ("mine", "parent")
    assert found.info.start_time == mlflow.MlflowClient(uri).get_run(first).info.start_time
    assert points(uri, found, "train/loss") == curve(3, 2.0)
    assert mlflow.MlflowClient(uri).get_run(first).info.lifecycle_stage == "deleted"
    run.finish()
    assert run.sync() is None
    assert the_run(uri, run).info.run_id == found.info.run_id


def test_epochs_that_a_run_ended_without_are_not_in_mlflow(uri: str, run: FakeFolder) -> None:
    run.begin(uri)
    run.record(1, 6)
    assert run.sync() is None
    run.rewrite(4)  # resumed with fewer epochs, or stopped before it had repeated them
    run.finish("KILLED")
    assert run.sync() is None
    assert points(uri, the_run(uri, run), "train/loss") == curve(4)
    assert the_run(uri, run).info.status == "KILLED"


@pytest.mark.parametrize("change", ["trainer.epochs", "tracking.experiment", "tracking.run_name"])
def test_keys_that_change_on_resume_have_an_effect(uri: str, run: FakeFolder, change: str) -> None:
    settings = {"trainer": {"epochs": 3}, "tracking": {"experiment": "fake", "run_name": "run"}}
    run.configure(**settings)
    run.begin(uri)
    run.record(1, 3)
    run.finish("KILLED")
    assert run.sync() is None
    section, key = change.split(".")
    settings[section][key] = 5 if key == "epochs" else "another"
    run.configure(**settings)
    run.begin(uri, experiment=settings["tracking"]["experiment"], name=settings["tracking"]["run_name"])
    assert run.sync() is None
    found = the_run(uri, run)
    assert found.data.params[change] == str(settings[section][key])
    assert found.info.run_name == settings["tracking"]["run_name"]
    experiment = mlflow.MlflowClient(uri).get_experiment(found.info.experiment_id)
    assert experiment.name == settings["tracking"]["experiment"]
    assert points(uri, found, "train/loss") == curve(3)


def test_a_store_that_had_the_run_before_has_it_once(uri: str, run: FakeFolder, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    shutil.copyfile(Path(uri.removeprefix("sqlite:///")), other)
    for last, store in enumerate([uri, f"sqlite:///{other}", uri, f"sqlite:///{other}"], 1):
        run.configure(tracking={"uri": store}, trainer={"epochs": last})  # parameters that MLflow does not let change
        run.begin(store)
        run.record(last, last)
        run.finish()
        assert run.sync() is None
        found = the_run(store, run)
        assert points(store, found, "train/loss") == curve(last)
        assert found.data.params["trainer.epochs"] == str(last)


def test_a_copied_folder_has_a_run_of_its_own_and_a_moved_one_keeps_its_run(uri: str, run: FakeFolder) -> None:
    first = run.begin(uri)
    run.record(1, 2)
    assert run.sync() is None
    copy = FakeFolder(run.path.with_name("copy"))
    shutil.rmtree(copy.path)
    shutil.copytree(run.path, copy.path)
    assert copy.begin(uri) != first
    copy.record(3, 4)
    assert copy.sync() is None
    assert points(uri, the_run(uri, run), "train/loss") == curve(2)
    assert points(uri, the_run(uri, copy), "train/loss") == curve(4)
    synced = run.path.with_name("synced")
    shutil.copytree(run.path, synced)
    assert Mirror(synced).sync() is None
    assert {each.data.tags["run_folder"] for each in runs(uri)} == {str(run.path), str(copy.path), str(synced)}
    moved = FakeFolder(run.path.with_name("moved"))
    shutil.rmtree(moved.path)
    run.path.rename(moved.path)
    assert moved.begin(uri) == first
    moved.record(3, 3)
    assert moved.sync() is None
    assert points(uri, the_run(uri, moved), "train/loss") == curve(3)


def test_a_run_deleted_in_mlflow_stays_so_until_training_continues(uri: str, run: FakeFolder) -> None:
    first = run.begin(uri)
    run.record(1, 1)
    run.finish("KILLED")
    assert run.sync() is None
    mlflow.MlflowClient(uri).delete_run(first)
    assert "its run was deleted in MLflow" in sync(run.path)
    assert runs(uri) == []
    assert run.begin(uri) != first
    run.record(2, 2)
    run.finish()
    assert run.sync() is None
    assert points(uri, the_run(uri, run), "train/loss") == curve(2)


@pytest.mark.parametrize("moment", ["after the run", "during the run"])
def test_a_store_that_was_deleted_gets_everything_again(tmp_path: Path, uri: str, run: FakeFolder, moment: str) -> None:
    file, ended = Path(uri.removeprefix("sqlite:///")), int(time.time()) + 86_400
    empty = tmp_path / "empty.db"
    shutil.copyfile(file, empty)
    first = run.begin(uri)
    run.record(1, 2)
    if moment == "after the run":
        run.finish()
    assert run.sync() is None
    file.unlink()
    if moment == "after the run":
        assert "no tracking store" in str(Mirror(run.path).sync())
        assert not file.exists()  # MLflow would have created one
        shutil.copyfile(empty, file)
        os.utime(run.path / "result.json", (ended, ended))
        assert "values sent" in sync(run.path)
        (again,) = runs(uri)
        assert again.info.end_time == 1000 * ended  # although result.json names another run now
        os.utime(run.path / "result.json", (1, 1))  # the clock was set back while the run trained
        assert "values sent" in sync(run.path)
        (again,) = runs(uri)
        assert again.info.end_time == again.info.start_time
    else:
        shutil.copyfile(empty, file)
        run.record(3, 3)
        assert run.sync() is not None  # finds out that the run is gone
        assert run.sync() is None
        run.finish()
        assert run.sync() is None
    found = the_run(uri, run)
    assert found.info.run_id != first
    assert found.info.status == "FINISHED"
    assert points(uri, found, "train/loss") == curve(3 if moment == "during the run" else 2)
    assert mlflow.MlflowClient(uri).list_artifacts(found.info.run_id) != []


def test_a_store_of_another_name_does_not_take_the_place_of_a_deleted_one(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.db"
    shutil.copyfile(Path(uri.removeprefix("sqlite:///")), other)
    run = FakeFolder(tmp_path / "run")
    config = compose(["trainer.epochs=2", f"tracking.uri=sqlite:///{other}", "tracking.log_model=false"])
    run.folder.write_config(config, [])
    run.begin(f"sqlite:///{other}", experiment="tnt")
    run.record(1, 2)
    run.finish()
    assert run.sync() is None
    other.unlink()
    assert "no tracking store" in str(Mirror(run.path).sync())
    assert runs(uri) == []
    caplog.set_level("INFO")
    finalize_run(run.folder, config, [])
    assert points(f"sqlite:///{other}", the_run(f"sqlite:///{other}", run), "train/loss") == curve(2)
    assert runs(uri) == []


def test_doctor_logs_a_run_again_that_the_store_does_not_have(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tnt_exp.cli.doctor import main as doctor

    file, empty = Path(uri.removeprefix("sqlite:///")), tmp_path / "empty.db"
    shutil.copyfile(file, empty)
    run = FakeFolder(tmp_path / "multirun/runs/run")
    run.folder.write_config(compose([]), [])  # the doctor reads all of it
    run.begin(uri)
    run.record(1, 2)
    run.finish("KILLED")
    assert run.sync() is None
    shutil.copyfile(empty, file)
    monkeypatch.chdir(tmp_path)
    assert doctor([]) == 1
    assert doctor(["--fix"]) == 0
    assert "--fix would: log it again from the folder" in capsys.readouterr().out
    assert doctor([]) == 0
    assert points(uri, the_run(uri, run), "train/loss") == curve(2)


@pytest.mark.parametrize("address", ["{}/missing/x.db", "{}", "{}/" + "x/" * 300 + "x.db"])
def test_a_store_that_cannot_be_opened_is_one_line_at_once(tmp_path: Path, run: FakeFolder, address: str) -> None:
    begin = time.monotonic()
    place = address.format(tmp_path)
    if len(place) > 500:
        Path(place).parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"tracking\.uri: expected a tracking store, received sqlite:///.*") as error:
        run.begin(f"sqlite:///{place}")
    assert "\n" not in str(error.value)
    assert time.monotonic() - begin < 5


def test_a_result_that_cannot_be_written_reaches_mlflow(uri: str, run: FakeFolder) -> None:
    """On a full disk: the run is FAILED there, with the cause, though it has no `result.json`."""
    tracker = run.track(uri)
    run.record(1, 1)
    run.result |= {"status": "FAILED", "error": "no space left on the disk"}
    tracker.finish()
    found = the_run(uri, run)
    assert (found.info.status, found.data.tags["error"]) == ("FAILED", "no space left on the disk")
    run.begin(uri)
    assert run.sync() is None
    found = the_run(uri, run)
    assert found.info.status == "RUNNING"
    assert "error" not in found.data.tags


def test_a_killed_run_without_a_result_stays_the_same_run(uri: str, run: FakeFolder) -> None:
    """What only the process knew (here: the number of parameters) is no difference from the folder."""
    tracker = run.track(uri)
    run.record(1, 2)
    run.result["parameters"] = 7
    assert tracker._sync() is None
    first = the_run(uri, run).info.run_id
    run.finish("KILLED")
    assert Mirror(run.path).sync() is None
    assert the_run(uri, run).info.run_id == first
    assert the_run(uri, run).data.metrics["model_parameters"] == 7


def test_a_run_shorter_than_the_interval_has_system_metrics(tmp_path: Path) -> None:
    metrics = system_metrics.SystemMetrics(tmp_path / SYSTEM_METRICS)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        sum(range(1000))
    metrics.finish()
    (row,) = filter(None, (row for _, row in read_system_metrics(tmp_path, 0)))
    values = {point.key: point.value for point in row}
    assert 0 < values["system/cpu_utilization_percentage"] <= 100
    assert 0 < values["system/system_memory_usage_percentage"] <= 100


def test_system_metrics_are_sent_once_and_a_cut_line_is_skipped(
    uri: str, run: FakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(step: int) -> str:
        return json.dumps({"time": 1000 + step, "step": step, "values": {"system/cpu": 2.0 * step}}) + "\n"

    file = run.path / SYSTEM_METRICS
    run.begin(uri)
    file.write_text(row(0) + row(1) + row(2)[:20])
    assert run.sync() is None
    assert points(uri, the_run(uri, run), "system/cpu") == []  # before the first epoch
    run.record(1, 1)
    assert run.sync() is None
    assert points(uri, the_run(uri, run), "system/cpu") == [(0, 0.0), (1, 2.0)]
    monkeypatch.setattr(system_metrics, "_INTERVAL", 0.1)
    metrics = system_metrics.SystemMetrics(file)
    while b'"step": 4' not in file.read_bytes():
        time.sleep(0.05)
    metrics.finish()
    assert [end for end, _ in read_system_metrics(run.path, 0)][-1] == file.stat().st_size
    (run.path / "mlflow/delivered.json").write_text("{")  # everything is sent again
    assert Mirror(run.path).sync() is None
    assert points(uri, the_run(uri, run), "system/cpu") == [(0, 0.0), (1, 2.0)]
    steps = [step for step, _ in points(uri, the_run(uri, run), "system/cpu_utilization_percentage")]
    assert steps == list(range(3, 3 + len(steps)))
    assert len(steps) >= 2


def _older(run: FakeFolder, uri: str) -> str:
    """Make the folder one that the first edition left: messages and a cursor in bytes."""
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("older")
    run_id = str(client.create_run(experiment, 1000, {"run_folder": str(run.path)}, "run").info.run_id)
    messages = [
        {"kind": "begin", "uri": uri},
        {"kind": "run", "uri": uri, "run_id": run_id, "experiment_id": experiment},
        {"kind": "params", "id": "params", "values": {"model.depth": "3"}},
        {"kind": "tags", "values": {"hardware": "a machine"}},
        *(
            {"kind": "metrics", "time": 1000 + epoch, "step": epoch, "values": {"train/loss": 1 / epoch}}
            for epoch in (1, 2)
        ),
        {"kind": "metrics", "time": 1500, "step": 0, "values": {"system/cpu": 5.0}},
        {"kind": "status", "status": "KILLED", "time": 2000},
    ]
    client.log_param(run_id, "model.depth", "3")
    client.log_metric(run_id, "train/loss", 1.0, 1001, 1)
    (run.path / "mlflow").mkdir()
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    (run.path / "mlflow/messages.jsonl").write_text(lines)
    (run.path / "mlflow/delivered.json").write_text(json.dumps({"run_id": run_id, "offset": 0, "behind": []}))
    (run.path / "mlflow.json").write_text(json.dumps({"uri": uri, "run_id": run_id}))
    for epoch in (1, 2):  # without the time of the row
        run.folder.append_metrics({"epoch": epoch, "train/loss": 1 / epoch, "seconds": 1.0})
    return run_id


def test_a_folder_of_the_first_edition_is_sent_and_continues(uri: str, run: FakeFolder) -> None:
    run_id = _older(run, uri)
    run.finish("KILLED")
    assert "values sent" in sync(run.path)
    found = the_run(uri, run)
    assert (found.info.run_id, found.info.status) == (run_id, "KILLED")
    assert points(uri, found, "train/loss") == curve(2)
    assert points(uri, found, "system/cpu") == [(0, 5.0)]
    assert found.data.tags["hardware"] == "a machine"
    assert not (run.path / "mlflow/messages.jsonl").exists()
    assert run.begin(uri, experiment="older") == run_id
    run.rewrite(3)
    run.finish()
    assert run.sync() is None
    assert points(uri, the_run(uri, run), "train/loss") == curve(3)


def test_tracker_has_the_run_that_replaced_another(uri: str, run: FakeFolder) -> None:
    tracker: Tracker = run.track(uri)
    first = tracker.run_id
    run.record(1, 2)
    assert tracker._sync() is None
    run.rewrite(2, 3.0)
    run.finish()
    tracker.finish()
    assert tracker.run_id != first
    assert run.folder.read_result()["mlflow_run_id"] == the_run(uri, run).info.run_id
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([the_run(uri, run).info.experiment_id], run_view_type=ViewType.ALL)
    assert {each.info.run_id for each in found} == {first, tracker.run_id}


def test_tracking_keys_have_an_effect_on_a_run_that_finished_before(
    uri: str, run: FakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    def config(*overrides: str) -> Config:
        return compose(["trainer.epochs=5", f"tracking.uri={uri}", "tracking.log_model=false", *overrides])

    run.folder.write_config(config(), [])
    run.begin(uri, experiment="tnt")
    run.record(1, 5)
    run.finish()
    assert run.sync() is None
    caplog.set_level("INFO")
    finalize_run(run.folder, config(), [])
    assert "MLflow has the rest now" not in caplog.text
    finalize_run(run.folder, config("tracking.run_name=other", "tracking.experiment=elsewhere"), ["an override"])
    assert "MLflow has the rest now" in caplog.text
    found = the_run(uri, run)
    assert found.info.run_name == "other"
    assert mlflow.MlflowClient(uri).get_experiment(found.info.experiment_id).name == "elsewhere"
    assert points(uri, found, "train/loss") == curve(5)
    assert found.info.status == "FINISHED"


def test_recall_of_each_class_is_a_metric_under_a_name_that_mlflow_takes(uri: str, run: FakeFolder) -> None:
    run.begin(uri)
    run.record(1, 2)
    recall = {"T-shirt/top": 0.5, "cat": 1.0, "never seen": None, "..": 0.25, "Größe": 0.75}
    recall |= {"☃": 0.1, "☂": 0.2, "__2": 0.3, "T-shirt_top": 0.4, "_2": 0.6}
    recall |= {"": 0.7, "x" * 251: 0.8, " ": 0.9}
    run.finish(epoch=2, class_accuracy=recall)
    assert run.sync() is None
    assert run.mirror.refused == 0
    found = {key: value for key, value in the_run(uri, run).data.metrics.items() if "recall" in key}
    assert found == {
        "test/recall/__5": 0.7,
        "test/recall/" + "x" * 200: 0.8,
        "test/recall/ ": 0.9,
        "test/recall/T-shirt_top_2": 0.5,
        "test/recall/cat": 1.0,
        "test/recall/_": 0.25,
        "test/recall/Größe": 0.75,
        "test/recall/__3": 0.1,
        "test/recall/__4": 0.2,
        "test/recall/__2": 0.3,
        "test/recall/T-shirt_top": 0.4,
        "test/recall/_2": 0.6,
    }


def test_what_another_user_has_is_neither_a_store_nor_gone(
    uri: str, run: FakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, status = tmp_path / "theirs", os.stat
    run.begin(uri, run_folder=str(theirs / "run"))  # of a run that they have copied to us

    def refused(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{theirs}/"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return status(path, **options)

    monkeypatch.setattr(os, "stat", refused)
    assert run.mirror.sync() is None
    assert not store_exists(f"sqlite:///{theirs}/mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", (f"{theirs.as_uri()}/mlartifacts",))
        database.execute("UPDATE tags SET value = ? WHERE key = 'run_folder'", (f"{theirs}/run",))
    (tmp_path / "mlartifacts").mkdir(exist_ok=True)
    assert moved_from(uri) == []
    (problem,) = find_problems(uri)
    assert "which another user owns" in problem.issue


def test_the_end_of_a_run_waits_for_one_request_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def sync() -> Exception:
        calls.append(time.sleep(0.3))
        return TimeoutError("not answered")

    for name, value in (("_INTERVAL", 0.01), ("_FINISH_GRACE", {"FINISHED": 0.2})):
        monkeypatch.setattr(f"tnt_exp.tracking.tracker.{name}", value)
    tracker = BaseTracker(SimpleNamespace(sync=sync, reference={"uri": "http://host"}, folder="run", refused=0))
    time.sleep(0.1)
    tracker._finish("FINISHED")
    assert (len(calls), tracker._thread.is_alive()) == (1, False)


@pytest.mark.parametrize("name", ["a%20b", "cats or dogs?"])
def test_a_path_that_an_address_would_change_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected a path without"):  # the store would be made somewhere else
        resolve_tracking_uri(f"sqlite:///{tmp_path}/{name}/mlflow.db")
    assert resolve_tracking_uri(f"sqlite:///{tmp_path}/100%/mlflow.db").endswith("/100%/mlflow.db")


def test_the_store_of_an_older_mlflow_is_one_line(uri: str, run: FakeFolder) -> None:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'c584bbada0d1'")
    for opens in (make_client, lambda uri: newest_runs_url(uri, "")):
        with pytest.raises(UserError, match="received: Detected out-of-date database schema"):
            opens(uri)
    with pytest.raises(UserError, match=rf"^tracking.uri: expected a tracking store, received {uri}: Detected"):
        run.begin(uri)
