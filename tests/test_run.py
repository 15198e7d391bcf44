"""Whole runs of the shipped configuration, shrunk: real data, real training, a real SQLite store."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import preloaded
import pytest
import yaml
from mlflow.entities import Run

from tnt_exp.config.compose import compose
from tnt_exp.errors import UserError
from tnt_exp.run import _finished
from tnt_exp.run_folder import RunFolder, first_difference

SMALL = ["model=tiny", "trainer.epochs=2", "dataset.train_limit=400", "tracking.system_metrics=false"]


def train(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    if any(argument.startswith("trainer.backend=") for argument in arguments):
        command = [sys.executable, "-m", "tnt_exp", "train", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    else:
        done = preloaded.run(["train", *arguments], folder)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def runs(folder: Path) -> list[Run]:
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one run finished, beside a stale file store of an older MLflow."""
    folder = tmp_path_factory.mktemp("finished")
    stale = folder / "mlruns" / "0"
    stale.mkdir(parents=True)
    (stale / "meta.yaml").write_text("experiment_id: '0'\nname: Default\nlifecycle_stage: active\n")
    train(folder, *SMALL, "tracking.system_metrics=true", "model.depth=3", "model.embed_dim=24")
    return folder


def test_run_folder_is_complete(finished: Path) -> None:
    folder = only(finished, "multirun/runs/*")
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert names == {
        "config.yaml",
        "overrides.yaml",
        "dataset.json",
        "result.json",
        "metrics.csv",
        "confusion_matrix.csv",
        "train.log",
        "model.keras",
        "plots/curves.png",
        "plots/samples.png",
        "plots/confusion_matrix.png",
        ".lock",
        "provenance/starts.json",
        "mlflow.json",
        "system_metrics.jsonl",
        "mlflow/delivered.json",
        "mlflow/.lock",
        "checkpoints/step-00000010.json",
        "checkpoints/step-00000010.safetensors",
    }
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "FINISHED"
    for key in ("train_seconds", "total_seconds", "first_step_seconds", "images_per_second"):
        assert result[key] > 0, key
    for key in ("parameters", "macs"):
        assert result[key] > 100, key
    assert {"test/accuracy", "test/top5_accuracy", "test/loss", "val/accuracy"} <= result["metrics"].keys()
    assert result["versions"]["keras"]
    assert result["hardware"]["device"] in ("cpu", "gpu")
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["val/accuracy"]) == max(float(row["val/accuracy"]) for row in rows) or result["epoch"] == 1
    assert yaml.safe_load((folder / "overrides.yaml").read_text())[-1] == "model.embed_dim=24"
    assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["depth"] == 3


def test_mlflow_has_params_curves_tags_and_artifacts(finished: Path) -> None:
    (run,) = runs(finished)
    folder = only(finished, "multirun/runs/*")
    result = json.loads((folder / "result.json").read_text())
    assert run.info.status == "FINISHED"
    assert run.info.run_id == result["mlflow_run_id"]
    assert run.data.params["model.depth"] == "3"
    assert run.data.params["model.embed_dim"] == "24"
    assert run.data.metrics["model_parameters"] == result["parameters"]
    assert run.data.metrics["test/accuracy"] == result["metrics"]["test/accuracy"]
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert {"dataset", "model", "hardware", "run_folder"} <= run.data.tags.keys()
    client = mlflow.MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    for name in ("train/loss", "val/accuracy", "train/learning_rate"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [1, 2], name
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "metrics.csv", "result.json", "train.log", "plots"} <= artifacts
    assert {given.dataset.name for given in run.inputs.dataset_inputs} == {"digits"}
    assert len(run.outputs.model_outputs) == 1


def test_nothing_lands_in_the_default_experiment_or_in_a_stale_store(finished: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{finished / 'mlflow.db'}")
    assert client.search_runs(["0"]) == []
    assert [file.name for file in (finished / "mlruns").iterdir()] == ["0"]


MEASURE = """
import json, sys
from tnt_exp.config.compose import compose
from tnt_exp.training.device import prepare_device

folder, *overrides = sys.argv[1:]
config = compose(overrides)
prepare_device(config.trainer)

from tnt_exp import data, model
from tnt_exp.evaluation import evaluate

classifier = model.load(folder + "/model.keras")
found = evaluate(classifier, data.load_dataset(config.dataset).test, config.trainer.batch_size, flip=False)
print(json.dumps(dict(found.metrics("test"))))
"""


def test_saved_model_gives_the_reported_accuracy(finished: Path) -> None:
    """In a process that computes as the run did: the last bit depends on how many images are multiplied at once."""
    folder = only(finished, "multirun/runs/*")
    result = json.loads((folder / "result.json").read_text())
    arguments = [sys.executable, "-c", MEASURE, str(folder), *SMALL]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert {key: result["metrics"][key] for key in measured} == measured


def test_sweep_gives_one_run_a_point_in_one_folder(tmp_path: Path) -> None:
    train(tmp_path, "-m", "model.embed_dim=16,32", *SMALL, "trainer.epochs=1")
    folder = only(tmp_path, "multirun/sweeps/*")
    results = [json.loads((folder / str(job) / "result.json").read_text()) for job in (0, 1)]
    assert results[0]["parameters"] < results[1]["parameters"]
    found = [run for run in runs(tmp_path) if "model.embed_dim" in run.data.params]
    assert sorted(run.data.params["model.embed_dim"] for run in found) == ["16", "32"]
    assert {run.data.tags["sweep_id"] for run in found} == {folder.name}


def train_until(folder: Path, epochs: int, number: signal.Signals, *arguments: str, stub: bool = False) -> int:
    """Start a run, send it a signal once it has done so many epochs, and return its exit code."""
    process = preloaded.start(["train", *arguments], folder, folder / "output.txt", stub=stub)
    try:
        deadline = time.monotonic() + 120
        while sum(len(file.read_text().splitlines()) for file in folder.glob("multirun/runs/*/metrics.csv")) <= epochs:
            assert process.poll() is None, (folder / "output.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(timeout=60)
    finally:
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_stopped_run_is_killed_everywhere(tmp_path: Path, number: signal.Signals, code: int) -> None:
    long = ["model=tiny", "trainer.epochs=100000", "tracking.system_metrics=false"]
    assert train_until(tmp_path, 1, number, *long, stub=True) == code
    result = json.loads(only(tmp_path, "multirun/runs/*/result.json").read_text())
    assert result["status"] == "KILLED"
    assert [run.info.status for run in runs(tmp_path)] == ["KILLED"]
    folder = only(tmp_path, "multirun/runs/*")
    assert f"to continue: tnt-exp resume {folder}" in (folder / "train.log").read_text()


def test_run_continued_after_kill_and_stop_ends_with_the_same_bits(tmp_path: Path) -> None:
    arguments = [
        *("model=tiny", "augmentation=keras_example", "model.mlp_dropout=0.1", "model.attention_dropout=0.1"),
        *("trainer.epochs=5", "trainer.checkpoint.steps=7", "tracking.system_metrics=false", "run.name=run"),
        "tracking.log_model=false",
    ]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(whole, *arguments)
    assert train_until(cut, 1, signal.SIGKILL, *arguments) == -signal.SIGKILL
    assert [run.info.status for run in runs(cut)] == ["RUNNING"]
    assert train_until(cut, 2, signal.SIGTERM, *arguments) == 143
    train(cut, *arguments)

    folders = [folder / "multirun/runs/run" for folder in (whole, cut)]
    last = [sorted(folder.glob("checkpoints/*.safetensors"))[-1] for folder in folders]
    assert last[0].name == last[1].name
    assert last[0].read_bytes() == last[1].read_bytes()
    curves = [list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in folders]
    seconds = [[float(row["seconds"]) for row in rows] for rows in curves]
    for row in curves[0] + curves[1]:
        del row["seconds"], row["time"], row["train/images_per_second"], row["train/waiting"]
    assert len(curves[0]) == 5
    assert curves[0] == curves[1]
    results = [json.loads((folder / "result.json").read_text())["metrics"] for folder in folders]
    assert results[0]["test/loss"] == results[1]["test/loss"]
    times = json.loads((folders[1] / "result.json").read_text())
    assert times["total_seconds"] > times["train_seconds"] == pytest.approx(sum(seconds[1]), abs=1e-2)
    (run,) = runs(cut)
    assert run.info.status == "FINISHED"
    client = mlflow.MlflowClient(f"sqlite:///{cut / 'mlflow.db'}")
    history = client.get_metric_history(run.info.run_id, "val/loss")
    assert [point.step for point in history] == list(range(1, 6))

    assert "finished before" in train(cut, *arguments).stdout
    assert "model.depth=3 (there: 2)" in train(cut, *arguments, "model.depth=3", code=2).stderr
    train(cut, *SMALL, "tracking=off", "run.name=run", "trainer.resume=never")
    assert (cut / "multirun/runs/run-2/result.json").exists()


def test_run_is_finished_with_its_epochs_and_never_had_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnt_exp.run.damaged_files", lambda folder: [])  # nothing was trained, so no model is there
    folder, small = RunFolder(tmp_path), ["model=tiny", "trainer.patience=2"]
    folder.write_config(compose([*small, "trainer.epochs=8"]), [])

    def finished_with(*overrides: str) -> bool:
        return bool(_finished(folder, compose([*small, *overrides])))

    folder.write_metrics([{"epoch": epoch} for epoch in range(1, 9)])
    assert not finished_with("trainer.epochs=8")  # no result yet
    folder.write_result({"status": "FINISHED"})
    assert finished_with("trainer.epochs=8")
    assert finished_with("trainer.epochs=8", "trainer.patience=3")
    assert not finished_with("trainer.epochs=9")
    with pytest.raises(UserError, match="of at least the 8 that were trained, received 7"):
        finished_with("trainer.epochs=7")

    folder.write_metrics([{"epoch": epoch} for epoch in range(1, 5)])  # stopped early
    assert finished_with("trainer.epochs=8")
    assert not finished_with("trainer.epochs=8", "trainer.patience=3")
    assert not finished_with("trainer.epochs=6")


def test_failed_run_is_failed_everywhere(tmp_path: Path) -> None:
    done = train(tmp_path, *SMALL, "optimizer.learning_rate=1e30", "schedule=constant", code=1)
    assert "learning rate" in done.stdout + done.stderr
    result = json.loads(only(tmp_path, "multirun/runs/*/result.json").read_text())
    assert result["status"] == "FAILED"
    assert "loss became" in result["error"]
    assert [run.info.status for run in runs(tmp_path)] == ["FAILED"]


def test_damaged_data_ends_with_2_and_one_line(tmp_path: Path) -> None:
    (tmp_path / "cifar.tar.gz").write_bytes(b"not an archive")
    done = train(tmp_path, "dataset=cifar100", "dataset.path=cifar.tar.gz", code=2)
    assert "cifar.tar.gz" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_unreachable_store_is_named_before_training(tmp_path: Path) -> None:
    done = train(tmp_path, *SMALL, "tracking.uri=sqlite:////proc/nowhere/mlflow.db", code=2)
    assert "tracking.uri" in done.stderr
    assert "tracking=off" in done.stderr


def test_fine_tuning_starts_from_weights_and_moves_only_the_head(tmp_path: Path) -> None:
    """A network saved under timm's names, then another head trained on it."""
    from keras import ops

    from tnt_exp import model
    from tnt_exp.config.compose import compose
    from tnt_exp.model.pretrained import save_timm

    published = model.build(compose(["model=tiny"]).model, 7, 1, seed=5)
    save_timm(published.network, tmp_path / "tiny.safetensors")
    done = train(
        tmp_path,
        *(*SMALL, "tracking=off", "model.weights=tiny.safetensors", "trainer.freeze=all_but_head"),
        "trainer.layer_decay=0.8",
    )
    assert "tiny.safetensors" in done.stdout
    tuned = model.load(only(tmp_path, "multirun/runs/*") / "model.keras")
    pairs = list(zip(published.network.weights, tuned.network.weights, strict=True))
    moved = {
        before.path
        for before, after in pairs
        if before.shape != after.shape or (ops.convert_to_numpy(before) != ops.convert_to_numpy(after)).any()
    }
    assert moved
    assert all("head" in path for path in moved), moved


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.jax)])
def test_other_backends_train_the_same_experiment(tmp_path: Path, backend: str) -> None:
    small = [*SMALL, "model.depth=1"]
    done = train(tmp_path, *small, f"trainer.backend={backend}")
    assert runs(tmp_path)[0].outputs.model_outputs  # which is TensorFlow's, on any backend
    assert done.stderr == ""
    train(tmp_path, *small, "tracking=off")
    losses: list[Any] = [
        json.loads(file.read_text())["metrics"]["train/loss"] for file in tmp_path.glob("multirun/runs/*/result.json")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_tensorflow_reads_what_a_former_run_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = [*SMALL, "model.depth=1", "tracking=off", "trainer.epochs=1"]

    def compiled() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in (tmp_path / "cache/tnt-exp").glob("tensorflow/*/*.pb")}

    train(tmp_path, *arguments, "run.name=first")
    kept = compiled()
    assert kept
    abandoned = tmp_path / "cache/tnt-exp/tensorflow/of-another-boot"
    abandoned.mkdir()
    os.utime(abandoned, (0, 0))
    train(tmp_path, *arguments, "run.name=second")
    assert compiled() == kept  # nothing was compiled again
    assert not abandoned.exists()
    (tmp_path / "no_folder").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no_folder"))
    train(tmp_path, *arguments, "run.name=third")
    runs = tmp_path / "multirun/runs"
    assert first_difference(runs / "second", runs / "first") is None
    assert first_difference(runs / "third", runs / "first") is None


@pytest.mark.jax
def test_jax_reads_what_a_former_run_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = [*SMALL, "model.depth=1", "tracking=off", "trainer.backend=jax", "trainer.epochs=1"]
    printed = [train(tmp_path, *arguments, f"run.name={name}") for name in ("first", "second")]
    assert list((tmp_path / "cache/tnt-exp/jax").iterdir())
    results = [json.loads((tmp_path / f"multirun/runs/{name}/result.json").read_text()) for name in ("first", "second")]
    assert results[0]["metrics"]["train/loss"] == results[1]["metrics"]["train/loss"]
    assert results[1]["first_step_seconds"] < results[0]["first_step_seconds"]
    assert "tpu" not in printed[0].stdout + printed[0].stderr
