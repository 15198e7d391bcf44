"""Nothing is lost and nothing doubled: stores that are new, shared, slow, gone, and processes that are killed."""

import itertools
import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from tracking.fake_folder import FakeFolder
from tracking.servers import Server, assert_complete, ended, points, runs, sync

from tnt_exp.errors import UserError
from tnt_exp.tracking.mirror import Mirror


def rows(folder: Path) -> int:
    file = folder / "metrics.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


def wait_for(condition: Callable[[], bool], process: Any) -> None:
    while not condition():
        time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]


def test_eight_processes_that_start_together_on_a_new_store_lose_nothing(tmp_path: Path, fake_run: Callable) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    printed = [ended(run) for run in [fake_run(tmp_path / str(number), uri, 1, 200, 0.01) for number in range(8)]]
    assert printed == [""] * 8
    client = mlflow.MlflowClient(uri)
    assert client.search_runs(["0"]) == []
    found = runs(uri)
    assert sorted(run.info.run_name for run in found) == [str(number) for number in range(8)]
    for run in found:
        assert_complete(uri, run, 200)
        artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert artifacts == {"config.yaml", "metrics.csv", "plots", "result.json"}


def test_a_server_that_is_killed_and_started_again_gets_everything(
    tmp_path: Path, server: Server, fake_run: Callable
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "wait").touch()
    process = fake_run(folder, server.uri, 1, 200, 0.05)
    wait_for(lambda: rows(folder) > 10, process)
    server.kill()
    before = rows(folder)
    time.sleep(8)
    assert rows(folder) > min(before + 50, 199)  # dozens of steps meanwhile
    time.sleep(8)  # the next attempt fails
    server.start()
    (folder / "wait").unlink()
    assert "MLflow cannot be reached" in ended(process)
    assert float((folder / "slowest").read_text()) < 1
    (run,) = [run for run in runs(server.uri) if run.info.run_name == "run"]
    assert_complete(server.uri, run, 200)


def test_a_server_that_does_not_come_back_gets_the_rest_from_sync(
    tmp_path: Path, server: Server, fake_run: Callable
) -> None:
    folder = tmp_path / "multirun" / "left"
    folder.parent.mkdir()
    process = fake_run(folder, server.uri, 1, 60, 0.1)
    sweep = FakeFolder(tmp_path / "multirun/sweep")
    sweep.begin(server.uri)
    wait_for(lambda: rows(folder) > 10, process)
    server.kill()
    trial = FakeFolder(sweep.path / "0")
    trial.mirror = Mirror(trial.path)
    trial.mirror.begin(server.uri, "fake", "trial", {"sweep_id": "sweep"})  # its sweep has been there
    trial.record(1, 3)
    begin = time.monotonic()
    assert f"`tnt-exp sync {folder}` sends it" in ended(process)
    assert time.monotonic() - begin < 90
    assert "pending:" in sync(folder, code=1)
    # The same run continues without its store.
    assert f"`tnt-exp sync {folder}` sends it" in ended(fake_run(folder, server.uri, 61, 70))
    with pytest.raises(UserError, match=r"tracking\.uri"):
        FakeFolder(tmp_path / "new").begin(server.uri)
    trial.folder.write_result({"status": "FINISHED", "metrics": {}})
    server.start()
    assert "values sent" in sync(tmp_path / "multirun")
    (late,) = [run for run in runs(server.uri) if run.info.run_name == "trial"]
    assert points(server.uri, late, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert json.loads((trial.path / "result.json").read_text())["mlflow_run_id"] == late.info.run_id
    (run,) = [run for run in runs(server.uri) if run.info.run_name == "left"]
    assert_complete(server.uri, run, 70)
    assert sync(folder) == "MLflow has everything\n"


def test_a_process_killed_while_it_sends_doubles_nothing(tmp_path: Path, uri: str, fake_run: Callable) -> None:
    folder = tmp_path / "run"
    process = fake_run(folder, uri, 1, 100_000, 0.0005)
    cursor = folder / "mlflow/delivered.json"
    wait_for(lambda: cursor.exists() and rows(folder) > 5000, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = rows(folder) - (not (folder / "metrics.csv").read_text().endswith("\n"))
    assert Mirror(folder).pending()
    sync(folder)
    (run,) = runs(uri)
    assert run.info.status == "RUNNING"  # no file says otherwise
    expected = [(step, 1 / step) for step in range(1, last + 1)]
    assert points(uri, run, "train/loss") == expected
    cursor.unlink()  # what was sent is unknown: everything is compared
    sync(folder)
    assert [each.info.run_id for each in runs(uri)] == [run.info.run_id]
    assert points(uri, run, "train/loss") == expected


_FAILURES = [
    MlflowException("500"),
    MlflowException("429", error_code=429),
    ConnectionError("the answer was lost"),
    TimeoutError("late"),
]


@pytest.mark.parametrize("lost", [False, True], ids=["refused", "answer lost"])
def test_a_store_that_fails_at_any_call_has_every_point_once(
    tmp_path: Path, uri: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the client fails once: before anything was done, or after everything was."""
    names = ("log_batch", "log_inputs", "log_artifact", "log_artifacts", "update_run", "set_terminated", "create_run")
    names += ("get_run", "get_metric_history", "search_runs", "delete_run", "get_experiment_by_name")
    calls, fails_at, failed = 0, 0, 0
    failures = itertools.cycle(_FAILURES)

    def flaky(original: Callable) -> Callable:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal calls, failed
            calls += 1
            if calls != fails_at:
                return original(*given, **named)
            if lost:
                original(*given, **named)
            failed += 1
            raise next(failures)

        return call

    run = FakeFolder(tmp_path / "run", dataset=True)
    while True:
        calls, fails_at, before = 0, fails_at + 1, failed
        with monkeypatch.context() as context:
            for name in names:
                context.setattr(mlflow.MlflowClient, name, flaky(getattr(mlflow.MlflowClient, name)))
            run.clear()
            with_store = Path(uri.removeprefix("sqlite:///"))
            assert with_store.exists()
            for _ in range(3):
                try:
                    run.begin(uri, name=f"run{fails_at}")
                    break
                except UserError:
                    continue
            run.record(1, 3)
            run.sync()
            run.record(4, 5)
            run.finish()
            while run.sync() is not None:
                continue
        (found,) = [each for each in runs(uri) if each.info.run_name == f"run{fails_at}"]
        assert points(uri, found, "train/loss") == [(step, 1 / step) for step in range(1, 6)], fails_at
        assert points(uri, found, "best/val/accuracy") == [(0, 0.05)]
        assert found.info.status == "FINISHED"
        assert len(found.inputs.dataset_inputs) == 2
        if failed == before:
            break
    assert failed > 15


def test_a_locked_database_delays_only_the_end(tmp_path: Path, uri: str) -> None:
    run = FakeFolder(tmp_path / "run")
    tracker = run.track(uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("begin exclusive")
        run.record(1, 100)
        time.sleep(3)
        other.rollback()
    other.close()
    run.finish()
    tracker.finish()
    (found,) = runs(uri)
    assert points(uri, found, "train/loss") == [(step, 1 / step) for step in range(1, 101)]
    assert found.info.status == "FINISHED"


def test_a_value_too_long_for_mlflow_is_a_file_there(tmp_path: Path, uri: str) -> None:
    long = "é" * 20_000
    run = FakeFolder(tmp_path / "run", config={"dataset": {"path": long}, "model": {"depth": 3}})
    run.begin(uri)
    run.finish("FAILED", error=long)
    assert run.sync() is None
    (found,) = runs(uri)
    too_long = "too long: artifact params/dataset.path.txt"
    assert found.data.params == {"dataset.path": too_long, "model.depth": "3", "seed": "0"}
    client = mlflow.MlflowClient(uri)
    for name in ("params/dataset.path.txt", "tags/error.txt"):
        assert Path(client.download_artifacts(found.info.run_id, name)).read_text() == long


def test_what_the_store_refuses_is_reported_and_holds_up_nothing(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeFolder(tmp_path / "run", config={"model": {"depth": 3, "no?name": 1}})
    run.begin(uri)
    run.record(1, 2)
    run.finish()
    assert run.sync() is None
    (found,) = runs(uri)
    assert found.data.params == {"model.depth": "3", "seed": "0"}
    assert points(uri, found, "train/loss") == [(1, 1.0), (2, 0.5)]
    assert found.info.status == "FINISHED"
    assert "MLflow refuses <Param" in caplog.text
    assert "MLflow refused 1 values" in sync(run.path, code=1)


def test_artifacts_that_cannot_be_kept_hold_up_no_status(tmp_path: Path, uri: str) -> None:
    run = FakeFolder(tmp_path / "run")
    run.begin(uri)
    (tmp_path / "mlartifacts").write_text("a file where the folder of artifacts should be")
    run.record(1, 1)
    run.finish("KILLED")
    assert run.sync() is not None
    (found,) = runs(uri)
    assert found.info.status == "KILLED"
    assert found.data.metrics["train/loss"] == 1.0
    assert Mirror(run.path).pending() == ["files"]
    (tmp_path / "mlartifacts").unlink()
    assert run.sync() is None
    assert Mirror(run.path).pending() == []
    artifacts = mlflow.MlflowClient(uri).list_artifacts(found.info.run_id)
    assert [file.path for file in artifacts] == ["config.yaml", "metrics.csv", "plots", "result.json"]


def test_a_start_cut_off_after_the_run_was_created_continues_with_it(tmp_path: Path, uri: str) -> None:
    run = FakeFolder(tmp_path / "run")
    first = run.begin(uri)
    reference = json.loads((run.path / "mlflow.json").read_text())
    (run.path / "mlflow.json").write_text(json.dumps(reference | {"run_id": None}))
    assert run.begin(uri) == first
    # A folder of the same name that was deleted before had another run.
    run.clear()
    time.sleep(0.002)
    assert run.begin(uri) != first
