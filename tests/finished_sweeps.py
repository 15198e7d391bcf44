"""Sweeps in MLflow: finished ones without any training, whose folders are written by hand; the runs of a sweep."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
from mlflow.entities import Run, ViewType
from mlflow.models import Model

from tnt_exp.config.compose import compose
from tnt_exp.run_folder import RunFolder
from tnt_exp.sweeps.mlflow_observer import MlflowObserver
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import TrialSpec
from tnt_exp.tracking.record import MODEL
from tnt_exp.tracking.tracker import start_run

IMAGES = {"validation": 144, "test": 360}  # those of the digits


@dataclass(frozen=True)
class FakeTrial:
    """A trial: what is swept, how many validation images are right after each epoch, and how many test images."""

    params: dict[str, str]
    right: Sequence[int]
    tested: int
    fixed: dict[str, str] = field(default_factory=dict)  # by the command that added the trial
    cause: str | None = None  # why it did not finish

    @property
    def kept(self) -> int:
        """The epoch that is kept: the first one of the best."""
        return 1 + self.right.index(max(self.right))


def write_sweep(folder: Path, uri: str, trials: Sequence[FakeTrial], *, model: bool = False) -> SweepStudy:
    """Write the folder of a sweep as it ends, and log it; with `model`, an empty one with each trial."""
    command = ["model.depth=choice(2,3)"]
    study = SweepStudy.new(folder, command=command, config_dir=None, search=None, objective=None, direction="maximize")
    for trial in trials:
        overrides = [f"{key}={value}" for key, value in {**trial.fixed, **trial.params}.items()]
        tracking = [f"tracking.uri={uri}", "tracking.system_metrics=false", f"tracking.log_model={str(model).lower()}"]
        epochs = f"trainer.epochs={len(trial.right)}"
        config = compose([*overrides, epochs, "schedule.warmup_epochs=0", *tracking])
        study.add_trial(TrialSpec(overrides, dict(trial.params)), config)
    study.save()
    observer = MlflowObserver.of(study, config.tracking, trials[0].params)
    for trial, fake in zip(study.trials, trials, strict=True):
        _write_run(study, trial.job, fake, model)
    study.mark_complete(complete=True)
    observer.finish("FINISHED")
    return study


def _write_run(study: SweepStudy, job: int, fake: FakeTrial, model: bool) -> None:
    from tnt_exp.cli.run import _tags
    from tnt_exp.data import load_dataset

    path, trial = study.folder / str(job), study.trials[job]
    folder, config, begin = RunFolder(path), study.config(trial), time.time()
    dataset = load_dataset(config.dataset)
    folder.write_dataset(dataset, "digits")
    hardware = {"name": "Intel Xeon", "device": "cpu", "backend": "tensorflow"}
    result = {"status": "RUNNING", "metrics": {}, "hardware": hardware, "parameters": 10_000 + job, "macs": 1_000_000}
    tracker = start_run(config, folder, dataset, _tags(path), result)
    for epoch, right in enumerate(fake.right, 1):
        accuracy = right / IMAGES["validation"]
        row = {"epoch": epoch, "train/loss": 1 / epoch, "train/accuracy": accuracy, "val/loss": 1.2 / epoch}
        folder.append_metrics({**row, "val/accuracy": accuracy, "time": begin + epoch})
    accuracy = fake.right[fake.kept - 1] / IMAGES["validation"]
    metrics = {"train/accuracy": accuracy, "val/accuracy": accuracy, "test/accuracy": fake.tested / IMAGES["test"]}
    times = {"train_seconds": 12.0 + job, "total_seconds": 20.0 + job, "images_per_second": 900.0}
    result |= {"status": "FINISHED", "epoch": fake.kept, "metrics": metrics, **times}
    if fake.cause:
        result |= {"status": "KILLED", "cause": fake.cause, "error": "killed", "metrics": {}}
    folder.write_result(result)
    if model:
        (path / "model.keras").touch()
        (path / MODEL).mkdir(parents=True)
        Model().save(str(path / MODEL / "MLmodel"))
    tracker.finish()


def runs(folder: Path, view: int = ViewType.ACTIVE_ONLY) -> tuple[list[Run], list[Run]]:
    """Parents and children."""
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = list(client.search_runs(experiments, run_view_type=view))
    parents = [run for run in found if run.data.tags.get("sweep") == "parent"]
    return parents, [run for run in found if run not in parents]
