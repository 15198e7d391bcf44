"""A team's server: `mlflow server` on PostgreSQL, with artifacts that go through it."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import preloaded
import pytest
from tracking.servers import Server, free_port, points, runs, sync
from tracking.store_content import content, fill_store
from tracking.test_passwords import files_with, train

from tnt_exp.run_folder import ARTIFACTS
from tnt_exp.tracking.client import init_sqlite_store
from tnt_exp.tracking.mirror import Mirror
from tnt_exp.tracking.store_copy import copy_runs

pytestmark = [pytest.mark.postgresql, pytest.mark.timeout(600)]

FAKE_TRAIN = Path(__file__).parents[1] / "sweep/fake_train.py"


def programs() -> Path:
    """Where PostgreSQL's own programs are; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else Path(shutil.which("initdb") or "").parent


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of a fresh PostgreSQL on a free port."""
    place = Path(tempfile.mkdtemp(prefix="postgresql-"))
    # It refuses to run as root; its package makes a user for it.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(place, "postgres")
    port = free_port()

    def call(name: str, *arguments: str) -> None:
        done = subprocess.run([*user, str(programs() / name), *arguments], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    call("initdb", "-D", f"{place}/data", "-A", "trust", "-U", "mlflow", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {place} -c fsync=off"
    # Its own output file: it would hold ours open for ever.
    call("pg_ctl", "-D", f"{place}/data", "-w", "-l", f"{place}/log", "-o", options, "start")
    try:
        for name in ("mlflow", "copies"):
            call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", name)
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        call("pg_ctl", "-D", f"{place}/data", "-m", "immediate", "stop")
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), database)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def tnt_exp(folder: Path, *arguments: str) -> None:
    done = preloaded.run([*arguments], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLflow" not in done.stdout + done.stderr


def test_a_run_is_recorded_whole_and_recording_it_again_changes_nothing(server: Server, tmp_path: Path) -> None:
    tnt_exp(
        tmp_path,
        *("train", "model=tiny", "trainer.epochs=2", "dataset.train_limit=400", "run.name=run"),
        *(f"tracking.uri={server.uri}", "tracking.experiment=team", "tracking.register=digits"),
    )
    folder = tmp_path / "multirun/runs/run"
    client = mlflow.MlflowClient(server.uri)

    def tracker_() -> dict:
        (run,) = [run for run in runs(server.uri) if run.info.run_name == "run"]
        (output,) = client.get_run(run.info.run_id).outputs.model_outputs
        (version,) = client.search_model_versions("name = 'digits'")
        return {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": run.data.tags,
            "curves": {name: points(server.uri, run, name) for name in run.data.metrics},
            "inputs": sorted(given.tags[0].value for given in run.inputs.dataset_inputs),
            "model": (output.model_id, output.step, client.get_logged_model(output.model_id).status),
            "version": (version.version, version.run_id),
            "champion": client.get_model_version_by_alias("digits", "champion").version,
            "artifacts": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
        }

    before = tracker_()
    result = json.loads((folder / "result.json").read_text())
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    for name in ("train/loss", "val/accuracy", "train/learning_rate"):
        assert before["curves"][name] == [(int(row["epoch"]), float(row[name])) for row in rows], name
    assert before["curves"]["test/accuracy"] == [(0, result["metrics"]["test/accuracy"])]
    assert before["curves"]["system/cpu_utilization_percentage"]
    assert before["status"] == "FINISHED"
    assert before["params"]["model.name"] == "tiny"
    assert before["inputs"] == ["test", "train", "validation"]
    assert before["model"][1:] == (result["epoch"], "READY")
    assert before["version"] == (before["champion"], result["mlflow_run_id"])
    assert before["artifacts"] == sorted(set(ARTIFACTS) - {"profile"})  # which only trainer.profile makes
    fetched = client.download_artifacts(result["mlflow_run_id"], "metrics.csv", str(tmp_path))
    assert Path(fetched).read_bytes() == (folder / "metrics.csv").read_bytes()
    assert not (folder / "mlflow/model").exists()  # the server has it

    (folder / "mlflow/delivered.json").unlink()
    assert Mirror(folder).pending()
    sync(folder)
    assert tracker_() == before


def test_a_sweep_is_recorded_whole(server: Server, tmp_path: Path) -> None:
    launcher = f"launcher.command=['{sys.executable}','{FAKE_TRAIN}','--supervised']"
    begin = time.time()
    tnt_exp(
        tmp_path,
        *("train", "-m", "model=tiny", "model.embed_dim=32,64", "trainer.epochs=3", "schedule.warmup_epochs=0"),
        *(launcher, f"tracking.uri={server.uri}", "tracking.experiment=sweeps"),
    )
    found = [run for run in runs(server.uri) if "sweep_id" in run.data.tags]
    (parent,) = [run for run in found if run.data.tags.get("sweep") == "parent"]
    children = [run for run in found if run is not parent]
    assert [run.info.status for run in found] == ["FINISHED"] * 3
    assert {run.data.params["model.embed_dim"] for run in children} == {"32", "64"}
    for child in children:
        value = 0.999 if child.data.params["model.embed_dim"] == "64" else 0.999 - 1 / 16
        assert points(server.uri, child, "val/accuracy") == [
            (epoch, pytest.approx(value * epoch / 3)) for epoch in (1, 2, 3)
        ]
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    best = next(child for child in children if child.data.params["model.embed_dim"] == "64")
    assert parent.data.tags["best_run_id"] == best.info.run_id
    assert parent.info.end_time >= begin * 1000
    client = mlflow.MlflowClient(server.uri)
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names == {"leaderboard.csv", "leaderboard.json", "points.csv", "report.html", "plots"}


def test_the_password_of_a_database_is_nowhere(database: str, tmp_path: Path) -> None:
    secrets = ("geheim!pw", "geheim%21pw")
    address = database.replace("mlflow@", "mlflow:geheim%21pw@")
    output = train(tmp_path, "trainer.epochs=1", f"tracking.uri={address}", "tracking.experiment=secret")
    output += train(
        tmp_path, "trainer.epochs=2", f"tracking.uri={database}", "tracking.experiment=secret", PGPASSWORD=secrets[0]
    )
    (run,) = mlflow.MlflowClient(database).search_runs(
        [mlflow.MlflowClient(database).get_experiment_by_name("secret").experiment_id]
    )
    assert run.info.status == "FINISHED"
    assert not any(secret in output for secret in secrets)
    assert files_with(tmp_path, *secrets) == []
    port = database.rpartition(":")[2].partition("/")[0]
    dump = [str(programs() / "pg_dump"), "-h", "127.0.0.1", "-p", port, "-U", "mlflow", "mlflow"]
    stored = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    assert "run_folder" in stored
    assert not any(secret in stored for secret in secrets)


def test_runs_copied_here_and_back_are_equal_though_the_copy_was_killed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = database.removesuffix("mlflow") + "copies"  # without the runs of the other tests, whose server is gone
    monkeypatch.chdir(tmp_path)  # MLflow puts the artifacts of a database without a server into the working folder
    for name in ("source", "back"):
        (tmp_path / name).mkdir()
    source, back = (f"sqlite:///{tmp_path / name / 'mlflow.db'}" for name in ("source", "back"))
    init_sqlite_store(source)
    fill_store(source, tmp_path / "source")
    wanted = {key: run for key, run in content(source).items() if not run["info"][0].startswith("open")}
    command = [sys.executable, "-m", "tnt_exp", "sync", "--uri", source, "--to", database]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not any(run.data.tags.get("copied_from") in wanted and run.data.params for run in runs(database)):
        assert process.poll() is None
    process.kill()
    process.communicate()
    statuses = [run.info.status for run in runs(database) if run.data.tags.get("copied_from") in wanted]
    assert statuses.count("FINISHED") < len(wanted)
    tnt_exp(tmp_path, "sync", "--uri", source, "--to", database)
    assert content(database, wanted) == wanted
    assert not copy_runs(database, back, print).error
    assert content(back, wanted) == wanted
