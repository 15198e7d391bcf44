"""Runs that are stopped, starved, locked out, left for dead, looked after and repeated: real processes, real stores."""

import json
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import preloaded
import pytest

SMALL = ["model=tiny", "trainer.epochs=2", "dataset.train_limit=200", "tracking.system_metrics=false"]
RUN = [*SMALL, "tracking.log_model=false", "augmentation=keras_example", "run.name=run"]
LONG = [*SMALL, "trainer.epochs=100000", "trainer.checkpoint.steps=5", "tracking.log_model=false", "run.name=run"]


def tnt(folder: Path, *arguments: str, code: int = 0, stub: bool = False, limits: dict[int, int] | None = None) -> str:
    """Everything that a command prints.

    Args:
        folder: Where it is typed.
        arguments: Of `tnt-exp`.
        code: The exit code it must have.
        stub: Training computes nothing.
        limits: Resource: how much of it there is.
    """
    done = preloaded.run([*arguments], folder, stub=stub, limits=limits)
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    return printed


def begin(folder: Path, *arguments: str) -> preloaded.Process:
    """A run that has made an epoch, in which nothing is computed."""
    process = preloaded.start(["train", *arguments], folder, folder / "output.txt", stub=True)
    deadline = time.monotonic() + 200
    while not list(folder.glob("multirun/runs/run/checkpoints/step-*.json")):
        assert process.poll() is None, (folder / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def query(folder: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=60)) as database, database:
        return database.execute(question).fetchall()


def result(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "result.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run finished."""
    folder = tmp_path_factory.mktemp("finished")
    tnt(folder, "train", *RUN)
    return folder


def test_provenance_is_in_the_run_folder_and_in_mlflow(finished: Path) -> None:
    (start,) = json.loads((finished / "multirun/runs/run/provenance/starts.json").read_text())
    assert start["packages"]["numpy"]
    assert start["hardware"]["backend"] == "tensorflow"
    assert start["dataset_digest"]
    assert start["cwd"] == str(finished)
    ((where,),) = query(finished, "SELECT artifact_uri FROM runs")
    assert (Path(str(where).removeprefix("file://")) / "provenance/starts.json").is_file()


def test_finished_run_is_reproduced_to_the_bit_and_a_changed_one_is_not(finished: Path, tmp_path: Path) -> None:
    run = finished / "multirun/runs/run"
    printed = tnt(tmp_path, "reproduce", str(run), "--output", str(tmp_path / "again"))
    assert "equal, bit for bit: 2 epochs" in printed
    assert "differs from the original" not in printed  # nor do the variables that the program itself sets
    other = tmp_path / "other"
    shutil.copytree(run, other)
    curve = (other / "metrics.csv").read_text()
    last = curve.splitlines()[2].split(",")
    last[2] = last[2] + "1"
    (other / "metrics.csv").write_text("\n".join([*curve.splitlines()[:2], ",".join(last)]) + "\n")
    from tnt_exp.run_folder import first_difference

    assert first_difference(run, tmp_path / "again") is None
    assert str(first_difference(run, other)).startswith("epoch 2: train/loss")


@pytest.mark.parametrize("cursor", ["old", "gone"])
def test_run_killed_after_its_result_is_sent_by_the_same_command(finished: Path, cursor: str) -> None:
    """The kill came while the end was sent to MLflow, and maybe before a cursor was written."""
    run = finished / "multirun/runs/run"
    file = run / "mlflow/delivered.json"
    sent = json.loads(file.read_text())
    file.unlink()
    if cursor == "old":
        parts = {name: digest for name, digest in sent["parts"].items() if name not in ("files", "status")}
        file.write_text(json.dumps(sent | {"parts": parts}))
    this = f"WHERE run_uuid = '{result(run)['mlflow_run_id']}'"  # not that of `reproduce`
    query(finished, f"UPDATE runs SET status = 'RUNNING', end_time = NULL {this}")
    ((where,),) = query(finished, f"SELECT artifact_uri FROM runs {this}")
    artifact = Path(str(where).removeprefix("file://")) / "result.json"
    artifact.unlink()
    printed = tnt(finished, "train", *RUN)
    assert "finished before" in printed
    assert "MLflow has the rest now" in printed
    assert query(finished, f"SELECT status, end_time IS NOT NULL FROM runs {this}") == [("FINISHED", 1)]
    assert artifact.read_bytes() == (run / "result.json").read_bytes()
    assert "has the rest now" not in tnt(finished, "train", *RUN)


def test_killed_run_is_found_fixed_and_resumed(tmp_path: Path) -> None:
    process = begin(tmp_path, *LONG)
    assert "received one that process" in tnt(tmp_path, "train", *LONG, code=2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ((run_id,),) = query(tmp_path, "SELECT run_uuid FROM runs WHERE status = 'RUNNING'")
    printed = tnt(tmp_path, "doctor", code=1)
    assert "--fix would: mark it KILLED" in printed
    assert "is a stale lock of" in printed
    assert query(tmp_path, "SELECT status FROM runs") == [("RUNNING",)]
    assert "done: mark it KILLED" in tnt(tmp_path, "doctor", "--fix")
    assert query(tmp_path, "SELECT status FROM runs") == [("KILLED",)]
    assert "no problems found" in tnt(tmp_path, "doctor")

    run = tmp_path / "multirun/runs/run"
    config = (run / "config.yaml").read_text()
    trained = len((run / "metrics.csv").read_text().splitlines())
    (run / "config.yaml").write_text(config.replace("epochs: 100000", f"epochs: {trained + 2}"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    printed = tnt(elsewhere, "resume", str(run_id), "--uri", f"sqlite:///{tmp_path / 'mlflow.db'}", stub=True)
    assert "resuming" in printed
    # The number of epochs is another one: a fresh run replaces the one that was killed.
    active = "SELECT status FROM runs WHERE lifecycle_stage = 'active'"
    assert query(tmp_path, active) == [("FINISHED",)]
    assert not (elsewhere / "mlflow.db").exists()


def test_doctor_fixes_misplaced_runs_lost_artifacts_and_an_older_store(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    store = tmp_path / "mlruns/0/0123456789abcdef0123456789abcdef"
    store.mkdir(parents=True)
    about = "experiment_id: '0'\nname: Default\nlifecycle_stage: active\nartifact_location: file:///nowhere\n"
    (store.parent / "meta.yaml").write_text(about)
    this = f"WHERE run_uuid = '{result(tmp_path / 'multirun/runs/run')['mlflow_run_id']}'"  # not that of `reproduce`
    ((experiment, where),) = query(tmp_path, f"SELECT experiment_id, artifact_uri FROM runs {this}")
    moved = str(where).replace(str(finished), str(tmp_path))
    query(tmp_path, f"UPDATE runs SET experiment_id = 0, artifact_uri = '{moved}' {this}")
    shutil.rmtree(moved.removeprefix("file://"))
    printed = tnt(tmp_path, "doctor", "--fix")
    assert "is in the experiment Default, not in tnt" in printed
    assert "has lost its artifacts" in printed
    assert "file store of an older MLflow (0 runs)" in printed
    assert query(tmp_path, f"SELECT experiment_id FROM runs {this}") == [(experiment,)]
    assert (Path(moved.removeprefix("file://")) / "result.json").is_file()
    assert "no problems found" in tnt(tmp_path, "doctor")


def test_full_disk_is_one_line_and_leaves_the_checkpoints(tmp_path: Path) -> None:
    wide = [*SMALL, "model.embed_dim=256", "tracking=off", "run.name=run"]
    tnt(tmp_path, "train", *wide, "trainer.epochs=1", "schedule=constant", stub=True)
    limits = {resource.RLIMIT_FSIZE: 2_000_000}
    printed = tnt(tmp_path, "train", *wide, "schedule=constant", code=1, stub=True, limits=limits)
    assert "no space left on the disk" in printed
    assert "Traceback" not in printed
    run = tmp_path / "multirun/runs/run"
    assert result(run)["status"] == "FAILED"
    assert "no space left on the disk" in str(result(run)["error"])
    assert [file.name for file in run.rglob(".part.*")] == []
    assert "resuming" in tnt(tmp_path, "train", *wide, "schedule=constant", stub=True)
    assert result(run)["status"] == "FINISHED"


def test_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    printed = tnt(tmp_path, "train", *SMALL, "tracking=off", "hydra.run.dir=/proc/nowhere", code=1)
    assert "/proc/nowhere" in printed
    assert "Traceback" not in printed


def test_lack_of_memory_is_one_line(tmp_path: Path) -> None:
    """The outer attention of 128 images of 4,096 patches wants 17 GB, at once."""
    large = ["model.image_size=256", "model.patch_size=4", "model.stride=2", "trainer.batch_size=128"]
    limits = {resource.RLIMIT_AS: 8 * 2**30}
    printed = tnt(tmp_path, "train", *SMALL, *large, "tracking=off", "run.name=run", code=1, limits=limits)
    assert "out of memory" in printed
    assert "trainer.batch_size" in printed
    assert "Traceback" not in printed
    assert result(tmp_path / "multirun/runs/run")["status"] == "FAILED"


def test_loss_that_is_not_finite_goes_back_where_that_is_asked_for(tmp_path: Path) -> None:
    wild = ["optimizer=sgd", "optimizer.learning_rate=1e13", "schedule=constant", "tracking=off", "run.name=run"]
    printed = tnt(tmp_path, "train", *SMALL, *wild, code=1)
    assert "at step 2 (epoch 1), at a learning rate of 1e+13. There is no checkpoint yet." in printed
    assert "Traceback" not in printed
    printed = tnt(tmp_path, "train", *SMALL, *wild, "trainer.on_nan=rollback", "trainer.rollback_factor=1e-16")
    assert "Rollback 1: the last good checkpoint is that of step 0" in printed
    run = tmp_path / "multirun/runs/run"
    assert result(run)["status"] == "FINISHED"
    assert result(run)["rollbacks"] == 1
    again = tmp_path / "again"
    again.mkdir()
    printed = tnt(again, "train", *SMALL, *wild, "trainer.on_nan=rollback", "trainer.rollbacks=1", code=1)
    assert "The run stops after 1 rollbacks; the last good checkpoint is that of step 0" in printed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_signal_before_the_run_begins_has_its_exit_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    child = (
        f"import os, sys\nfrom tnt_exp import preflight\n"
        f"preflight.preflight = lambda config: os.kill(os.getpid(), {int(number)})\n"
        "from tnt_exp.cli import main\nsys.exit(main(['train']))\n"
    )
    assert subprocess.run([sys.executable, "-c", child], cwd=tmp_path, timeout=60).returncode == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("backend", "variants", "signals"),
    [
        ("tensorflow", ["EMA", "Muon"], ["SIGKILL", "SIGTERM"]),
        ("tensorflow", ["bfloat16"], ["SIGKILL"]),
        pytest.param("jax", ["EMA"], ["SIGKILL"], marks=pytest.mark.jax),
    ],
)
def test_killed_runs_end_with_the_same_bits(backend: str, variants: list[str], signals: list[str]) -> None:
    """A few of the kills of `make torture`."""
    script = Path(__file__).with_name("torture.py")
    options = ["--backend", backend, "--kills", "1", "--variants", *variants, "--signals", *signals]
    done = subprocess.run([sys.executable, str(script), *options], capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in signals:
        assert f"{name}: 1 of 1 bit-equal" in done.stdout
