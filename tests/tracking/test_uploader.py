"""Nothing is lost and nothing doubled: stores that are new, shared, slow, gone, and processes that are killed."""

import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from tracking.servers import Server, ended, points, runs, sync, told_everything

from tnt_exp.errors import UserError
from tnt_exp.tracking import Tracker
from tnt_exp.tracking.outbox import Outbox
from tnt_exp.tracking.uploader import sync as deliver

LOCAL = "sqlite:///{}/mlflow.db"


def tracker(folder: Path, uri: str) -> Tracker:
    folder.mkdir(exist_ok=True)
    return Tracker.open(folder, uri, "talk", folder.name, {"run_folder": str(folder)})


def size(folder: Path) -> int:
    file = folder / "mlflow/messages.jsonl"
    return file.stat().st_size if file.exists() else 0


def test_eight_processes_that_start_together_on_a_new_store_lose_nothing(tmp_path: Path, talk: Callable) -> None:
    uri = LOCAL.format(tmp_path)
    said = [ended(process) for process in [talk(tmp_path / str(number), uri, 1, 200, 0.01) for number in range(8)]]
    assert said == [""] * 8
    client = mlflow.MlflowClient(uri)
    assert client.search_runs(["0"]) == []
    found = runs(uri)
    assert sorted(run.info.run_name for run in found) == [str(number) for number in range(8)]
    for run in found:
        told_everything(uri, run, 200)
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["slowest"]


def test_a_server_that_is_killed_and_started_again_is_told_everything(
    tmp_path: Path, server: Server, talk: Callable
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "wait").touch()
    process = talk(folder, server.uri, 1, 200, 0.05)
    while size(folder) < 2000:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    server.kill()
    before = size(folder)
    time.sleep(8)
    assert size(folder) > before + 20 * 50  # dozens of steps meanwhile
    server.start()
    (folder / "wait").unlink()
    assert "MLflow cannot be reached" in ended(process)
    assert float((folder / "slowest").read_text()) < 1
    (run,) = [run for run in runs(server.uri) if run.info.run_name == "run"]
    told_everything(server.uri, run, 200)


def test_a_server_that_does_not_come_back_is_told_by_sync(tmp_path: Path, server: Server, talk: Callable) -> None:
    folder = tmp_path / "multirun" / "left"
    folder.parent.mkdir()
    process = talk(folder, server.uri, 1, 60, 0.1)
    while size(folder) < 2000:
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
    server.kill()
    begin = time.monotonic()
    assert f"`tnt-exp sync {folder}` delivers them" in ended(process)
    assert time.monotonic() - begin < 90
    assert "pending:" in sync(folder, code=1)
    # The same run goes on without its store, and does not say twice what it has said.
    assert "delivers them" in ended(talk(folder, server.uri, 51, 70))
    with pytest.raises(UserError, match=r"tracking\.uri"):
        tracker(tmp_path / "new", server.uri)
    server.start()
    assert "messages delivered" in sync(tmp_path / "multirun")
    (run,) = [run for run in runs(server.uri) if run.info.run_name == "left"]
    told_everything(server.uri, run, 70)
    assert sync(folder) == "MLflow has everything\n"


def test_a_process_killed_while_it_delivers_doubles_nothing(tmp_path: Path, talk: Callable) -> None:
    folder, uri = tmp_path / "run", LOCAL.format(tmp_path)
    process = talk(folder, uri, 1, 100_000, 0.0005)
    cursor = folder / "mlflow/delivered.json"
    while not cursor.exists() or Outbox(folder).read_cursor().offset < 50_000:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = max(Outbox(folder).last_steps.values())
    assert Outbox(folder).pending_count()
    sync(folder)
    (run,) = runs(uri)
    assert run.info.status == "RUNNING"  # nobody has said otherwise
    expected = [(step, 1 / step) for step in range(1, last + 1)]
    assert points(uri, run, "train/loss") == expected
    cursor.unlink()  # the mark of the last delivery was lost: all is sent again
    sync(folder)
    assert points(uri, run, "train/loss") == expected


def test_a_locked_database_delays_nothing(tmp_path: Path) -> None:
    uri = LOCAL.format(tmp_path)
    tracker_ = tracker(tmp_path / "run", uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("begin exclusive")
        begin = time.perf_counter()
        for step in range(1, 101):
            tracker_.metrics({"loss": step}, step)
        assert time.perf_counter() - begin < 2
        time.sleep(3)
        other.rollback()
    other.close()
    tracker_.finish("FINISHED")
    (run,) = runs(uri)
    assert points(uri, run, "loss") == [(step, float(step)) for step in range(1, 101)]
    assert run.info.status == "FINISHED"


def test_a_value_too_long_for_mlflow_is_a_file_there(tmp_path: Path) -> None:
    uri = LOCAL.format(tmp_path)
    tracker_ = tracker(tmp_path / "run", uri)
    long = "é" * 20_000
    tracker_.params({"dataset.path": long, "model.depth": 3})
    tracker_.tags({"error": long})
    tracker_.finish("FAILED")
    (run,) = runs(uri)
    assert run.data.params == {"dataset.path": "too long: artifact params/dataset.path.txt", "model.depth": "3"}
    client = mlflow.MlflowClient(uri)
    for name in ("params/dataset.path.txt", "tags/error.txt"):
        assert Path(client.download_artifacts(run.info.run_id, name)).read_text() == long


def test_a_message_that_the_store_refuses_holds_up_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = LOCAL.format(tmp_path)
    tracker_ = tracker(tmp_path / "run", uri)
    tracker_._enqueue("params", values={"seed": "1"})
    tracker_.metrics({"loss": 1.0}, 1)
    tracker_._enqueue("params", values={"seed": "2"})
    tracker_.metrics({"loss": 2.0}, 2)
    tracker_.finish("FINISHED")
    (run,) = runs(uri)
    assert run.data.params == {"seed": "1"}
    assert points(uri, run, "loss") == [(1, 1.0), (2, 2.0)]
    assert run.info.status == "FINISHED"
    assert "MLflow refuses params: Changing param values is not allowed" in caplog.text


def test_artifacts_that_cannot_be_kept_hold_up_no_status(tmp_path: Path) -> None:
    folder, uri = tmp_path / "run", LOCAL.format(tmp_path)
    tracker_ = tracker(folder, uri)
    (tmp_path / "mlartifacts").write_text("a file where the folder of artifacts should be")
    (folder / "plot.txt").write_text("a plot")
    tracker_.artifacts(["plot.txt"])
    tracker_.metrics({"loss": 1.0}, 1)
    tracker_.finish("KILLED")
    (run,) = runs(uri)
    assert run.info.status == "KILLED"
    assert run.data.metrics == {"loss": 1.0}
    assert Outbox(folder).pending_count() == 1
    assert deliver(folder) is not None
    (tmp_path / "mlartifacts").unlink()
    assert deliver(folder) is None
    assert Outbox(folder).pending_count() == 0
    (run,) = runs(uri)
    artifacts = mlflow.MlflowClient(uri).list_artifacts(run.info.run_id)
    assert [file.path for file in artifacts] == ["plot.txt"]


def test_a_run_deleted_in_mlflow_is_told_anew(tmp_path: Path) -> None:
    folder, uri = tmp_path / "run", LOCAL.format(tmp_path)
    tracker_ = tracker(folder, uri)
    tracker_.params({"seed": 1})
    tracker_.metrics({"loss": 1.0}, 1)
    tracker_.finish("KILLED")
    mlflow.MlflowClient(uri).delete_run(tracker_.run_id)
    again = tracker(folder, uri)
    assert again.run_id != tracker_.run_id
    again.params({"seed": 1})
    again.metrics({"loss": 1.0}, 1)
    again.metrics({"loss": 2.0}, 2)
    again.finish("FINISHED")
    (run,) = runs(uri)
    assert (run.info.run_id, run.info.status) == (again.run_id, "FINISHED")
    assert run.data.params == {"seed": "1"}
    assert points(uri, run, "loss") == [(1, 1.0), (2, 2.0)]


def test_a_start_cut_off_after_the_run_was_made_goes_on_with_it(tmp_path: Path) -> None:
    folder, uri = tmp_path / "run", LOCAL.format(tmp_path)
    tracker_ = tracker(folder, uri)
    tracker_.finish("KILLED")
    file = folder / "mlflow/messages.jsonl"
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0])  # only: a run was about to be made
    assert tracker(folder, uri).run_id == tracker_.run_id
