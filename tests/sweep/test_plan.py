"""From a command to points: spelling, expansion, composition, checks, endings."""

import errno
import fcntl
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.atomic_files import acquire_lock, atomic_write_json, is_unlocked, lock_owner, read_json
from tnt_exp.cli import main
from tnt_exp.cli.doctor import _leftovers
from tnt_exp.config.compose import compose, conf_dir, options, register
from tnt_exp.errors import UserError
from tnt_exp.run_folder import RunFolder, read_confusion_matrix, write_confusion_matrix
from tnt_exp.sweeps import study
from tnt_exp.sweeps.plan import TrialComposer, plan_trials
from tnt_exp.sweeps.results import folds_summary
from tnt_exp.sweeps.search_space import SearchSpace, read_points, to_hydra_overrides
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import (
    FailureReason,
    Outcome,
    TrialSpec,
    TrialState,
    from_exit_code,
    objective_value,
    read_outcome,
    trial_state,
    write_outcome,
)


def space_of(*overrides: str, declared: Mapping[str, str] = {}) -> SearchSpace:
    register()
    return SearchSpace(overrides, declared, ConfigLoaderImpl(create_config_search_path(str(conf_dir()))))


def test_what_is_about_the_sweep_is_no_part_of_the_run() -> None:
    assert to_hydra_overrides(["sweep=random", "sweep.trials=3", "launcher=ray", "+launcher.ray.x=1", "seed=1,2"]) == [
        "sweep@hydra.sweeper=random",
        "hydra.sweeper.trials=3",
        "hydra/launcher=ray",
        "+hydra.launcher.ray.x=1",
        "seed=1,2",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep=byes", "Did you mean bayes"),
        ("sweep.trails=3", "Did you mean sweep.trials"),
        ("launcher.slot=3", "Did you mean launcher.slots"),
        ("launcher.slots=1,2", "expected one value"),
    ],
)
def test_a_misspelt_setting_is_answered_with_the_nearest(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_hydra_overrides([override])


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    space = space_of(
        "model=tiny,digits", "model.depth=range(1,4)", "seed=3", declared={"seed": "1,2", "model.depth": "9"}
    )
    trials = space.grid()
    assert [tuple(trial.params.values()) for trial in trials] == [
        (model, depth) for model in ("tiny", "digits") for depth in ("1", "2", "3")
    ]
    assert all("seed=3" in trial.overrides for trial in trials)
    assert {trial.params["optimizer"] for trial in space_of("optimizer=glob(*)").grid()} >= {"adamw", "sgd"}


def test_an_interval_has_no_grid() -> None:
    with pytest.raises(UserError, match=r"optimizer.learning_rate: .*sweep=bayes"):
        space_of("optimizer.learning_rate=interval(0,1)").grid()


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(["tiny", "digits", "keras_example"]),
    st.sampled_from(["adamw", "sgd", "lion"]),
    st.integers(1, 9),
    st.floats(1e-5, 1e-1),
    st.sampled_from([None, "digits", "cifar100_keras_example"]),
)
def test_many_points_compose_as_one_does(
    model: str, optimizer: str, depth: int, rate: float, chosen: str | None
) -> None:
    overrides = [
        f"model.depth={depth}",
        f"model={model}",
        f"optimizer={optimizer}",
        f"optimizer.learning_rate={rate!r}",
    ]
    overrides += [f"experiment={chosen}"] if chosen else []
    composer = TrialComposer()
    composer(overrides[1:])  # what is kept of one point must not leak into another
    assert composer(overrides) == compose(overrides)


def test_bad_points_are_all_listed_and_duplicates_run_once() -> None:
    register()
    found = plan_trials(space_of("model=tiny", "model.embed_dim=32,33,48,032,35").grid(), TrialComposer())
    assert [trial.params["model.embed_dim"] for trial, _ in found.trials] == ["32", "48"]
    assert [trial.params["model.embed_dim"] for trial in found.duplicates] == ["32"] or len(found.duplicates) == 1
    assert len(found.error_message().splitlines()) == 2
    again = plan_trials([TrialSpec(["model=tiny", "model.embed_dim=32"])], TrialComposer())
    assert len(again.trials) == 1


def test_a_bad_point_stops_the_sweep_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "model=tiny", "model.embed_dim=32,33,34,35"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.count("model.embed_dim") for line in captured.err.splitlines()] == [2, 2]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_points_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["model=tiny", "model.embed_dim=32,33,48", "sweep.on_invalid=skip", "--dry-run"]
    assert main(["train", "-m", *arguments]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split()[:4] == ["job", "model.embed_dim", "parameters", "MACs"]
    assert "left out: model=tiny model.embed_dim=33" in text
    assert "2 trials" in text
    assert main(["train", "-m", "sweep=recipe", "model=tiny", "--dry-run"]) == 0
    assert "24 trials, 1 at once, random" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_left_trials_out_is_resumed_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["model=tiny", "model.embed_dim=32,33", "sweep.on_invalid=skip"]
    folder, overrides = tmp_path / "multirun/sweeps/first", ["model=tiny", "model.embed_dim=32"]
    study = SweepStudy.new(folder, command=command, config_dir=None, search=None, objective=None, direction="maximize")
    study.add_trial(TrialSpec(overrides, {"model.embed_dim": "32"}), TrialComposer()(overrides))
    study.save()
    assert main(["train", "-m", *command, "--dry-run"]) == 0
    assert f"resumes {folder}: 1 to run" in capsys.readouterr().out
    study.acquire_lock()
    assert study._lock is not None
    study._lock.close()  # as at the end of the process
    assert lock_owner(folder / ".lock") != ""
    assert list(_leftovers(folder)) == []  # nothing that the doctor repairs


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "defaults: [random, _self_]",
            "model.depht: expected a key of the configuration, received an unknown one. Did y",
        ),
        (
            "trials: 2",
            "sweep: expected a file with defaults: [random, _self_] (or grid, bayes), received none.",
        ),
    ],
)
def test_a_search_of_ones_own_that_cannot_run_is_refused_at_once(
    file: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/sweep").mkdir(parents=True)
    (tmp_path / "own/sweep/mine.yaml").write_text(f"{file}\nspace:\n  model.depht: 1,2\n")
    for flags in ([], ["--dry-run"]):
        assert main(["train", "-m", "--config-dir=own", "sweep=mine", *flags]) == 2
        assert capsys.readouterr().err.startswith(f"tnt-exp: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sweep.subset=0", "sweep.subset: expected >= 1, received 0."),
        ("sweep.trials=-1", "sweep.trials: expected >= 1, received -1."),
        ("launcher.slots=0", "launcher.slots: expected >= 1, received 0."),
        ("launcher.memory=0", "launcher.memory: expected > 0, received 0.0."),
        (
            "sweep.on_invalid=x",
            "sweep.on_invalid: expected one of stop, skip (what a trial that cannot run does to the sweep), "
            "received 'x'.",
        ),
        (
            "launcher.timeout=5m",
            "launcher.timeout: expected a number, or null (largest duration of a trial, seconds; null: no limit), "
            "received '5m'.",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(
    setting: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", "model=tiny", "seed=0,1", setting]) == 2
    assert capsys.readouterr().err == f"tnt-exp: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_sweep_settings_without_a_sweep_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "launcher.slots=2"]) == 2
    assert "the flag -m" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in options("sweep") if name != "base_sweep"])
def test_every_shipped_sweep_composes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", f"sweep={name}", "optimizer.weight_decay=0.01,0.1", "--dry-run"]) == 0


FINISHED = {"status": "FINISHED", "metrics": {}}
FAILED = {"status": "FAILED", "metrics": {}, "error": "ValueError: no"}
KILLED = {"status": "KILLED", "metrics": {}, "error": "stopped by SIGTERM"}


@pytest.mark.parametrize(
    ("code", "result", "order", "kernel", "cause"),
    [
        (0, FINISHED, None, False, None),
        (-signal.SIGSEGV, FINISHED, None, False, None),  # a crash after the end changes nothing
        (1, FAILED, None, False, FailureReason.error),
        (1, {**FAILED, "error": "MemoryError: "}, None, False, FailureReason.memory),
        (1, {**FAILED, "error": "ResourceExhaustedError: OOM when allocating"}, None, False, FailureReason.memory),
        (3, None, None, False, FailureReason.exit),
        (0, None, None, False, FailureReason.exit),
        (-signal.SIGSEGV, None, None, False, FailureReason.signal),
        (-signal.SIGKILL, None, None, True, FailureReason.memory),
        (143, KILLED, None, False, FailureReason.signal),
        (143, KILLED, Outcome(FailureReason.timeout, "t"), False, FailureReason.timeout),
        (-signal.SIGKILL, None, Outcome(FailureReason.stopped, "s"), False, FailureReason.stopped),
    ],
)
def test_how_a_job_ended(
    tmp_path: Path,
    code: int,
    result: dict[str, Any] | None,
    order: Outcome | None,
    kernel: bool,
    cause: FailureReason | None,
) -> None:
    outcome = from_exit_code(code, result, order, kernel)
    assert outcome.cause is cause
    if result:
        atomic_write_json(tmp_path / "result.json", result)
    write_outcome(tmp_path, outcome, 1.0)
    if cause is not None:
        assert read_outcome(read_json(tmp_path / "result.json")).cause is cause
    state = trial_state(read_json(tmp_path / "result.json"))
    assert state is (
        TrialState.finished
        if cause is None
        else TrialState.waiting
        if cause is FailureReason.stopped
        else TrialState.failed
    )


def test_a_point_without_a_result_waits_and_has_no_objective() -> None:
    assert trial_state(None) is TrialState.waiting
    assert trial_state(KILLED) is TrialState.waiting  # killed together with the supervisor
    assert objective_value(None, None) is None
    assert objective_value({"metrics": {"test/accuracy": 0.5}}, None) == 0.5
    assert objective_value({"metrics": {"test/accuracy": 0.5}, "train_seconds": 3}, "train_seconds") == 3
    assert objective_value({"metrics": {"val/loss": math.nan}}, "val/loss") is None  # a ranking has no place for it


@pytest.mark.parametrize("search", [[], ["sweep=random", "sweep.trials=2"]])
def test_a_sweep_that_cannot_be_written_leaves_nothing(
    search: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk is full once the configurations of the trials are written; a folder of the user's stays."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def unwritten_lock(_: Path) -> IO[str]:
        stream = Path("/dev/full").open("w")  # noqa: SIM115, held by the study
        stream.write("the owner")  # an error when it is closed
        return stream

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "atomic_write_json", full)
    monkeypatch.setattr(study, "acquire_lock", unwritten_lock)
    command = ["train", "-m", "model.depth=2,3", "tracking=off", *search]
    assert main(command) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    assert main([*command, "hydra.sweep.dir=mine"]) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_lock_has_one_owner(tmp_path: Path) -> None:
    first = acquire_lock(tmp_path / "lock")
    assert first is not None
    assert acquire_lock(tmp_path / "lock", wait=0.1) is None
    assert not is_unlocked(tmp_path / "lock")
    first.close()
    looking = (tmp_path / "lock").open()  # another process calls `is_unlocked`: that is no owner
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert is_unlocked(tmp_path / "lock")
    threading.Timer(0.02, looking.close).start()
    second = acquire_lock(tmp_path / "lock")
    assert second is not None
    second.close()


def test_a_job_that_keeps_pythons_lock_dies_with_its_supervisor(tmp_path: Path) -> None:
    # PyDLL keeps the lock while it calls: no thread of the job can run.
    job = "from tnt_exp.sweeps import worker; import ctypes, sys; worker.exit_with_parent(); print('held', flush=True)"
    job += "; ctypes.PyDLL(None).sleep(60)"
    supervisor = (
        "import subprocess, sys, time\n"
        f"job = subprocess.Popen([sys.executable, '-c', {job!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE,"
        " start_new_session=True)\n"
        "job.stdout.readline()\n"
        "print(job.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", supervisor], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    job_id = int(process.stdout.readline())
    time.sleep(0.3)
    assert psutil.pid_exists(job_id)
    process.kill()
    process.communicate()
    end = time.monotonic() + 5
    while psutil.pid_exists(job_id) and psutil.Process(job_id).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)


def planned(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str, keys: int) -> list[list[str]]:
    """The swept values of each trial that a dry run shows."""
    assert main(["train", "-m", "model=tiny", *arguments, "--dry-run"]) == 0, capsys.readouterr().err
    lines = capsys.readouterr().out.splitlines()
    return [line.split()[1 : keys + 1] for line in lines[1:] if line.split()[0].isdigit() and "trials" not in line]


def test_zip_pairs_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = ["sweep=zip", "model.embed_dim=32,64,96", "model.inner_dim=8,16,24"]
    assert planned(tmp_path, capsys, *pairs, keys=2) == [["32", "8"], ["64", "16"], ["96", "24"]]
    assert main(["train", "-m", "model=tiny", *pairs, "seed=0,1"]) == 2
    message = (
        "sweep=zip: expected lists of equal length, received 3 for model.embed_dim, 3 for model.inner_dim, 2 for seed."
    )
    assert capsys.readouterr().err == f"tnt-exp: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_values_that_depend_on_another_are_interpolations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of docs/sweeps.md."""
    monkeypatch.chdir(tmp_path)
    arguments = ["model.embed_dim=32,64", "model.inner_dim=${model.embed_dim}"]
    assert planned(tmp_path, capsys, *arguments, keys=1) == [["32"], ["64"]]
    trials, _ = zip(*plan_trials(space_of("model=tiny", *arguments).grid(), TrialComposer()).trials, strict=True)
    assert [TrialComposer()(trial.overrides).model.inner_dim for trial in trials] == [32, 64]


def test_a_subset_of_a_grid_is_random_and_a_larger_one_contains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = ["model.depth=1,2,3,4,5", "seed=0,1,2,3"]
    whole = planned(tmp_path, capsys, *grid, keys=2)
    some, more, other = (
        planned(tmp_path, capsys, *grid, f"sweep.subset={size}", f"sweep.seed={seed}", keys=2)
        for size, seed in ((6, 0), (9, 0), (6, 1))
    )
    assert (len(whole), len(some), len(more)) == (20, 6, 9)
    assert [trial for trial in whole if trial in some] == some  # distinct, in the order of the grid
    assert all(trial in more for trial in some)
    assert other != some
    assert len(planned(tmp_path, capsys, *grid, "sweep.subset=100", keys=2)) == 20


def table(folder: Path, text: str) -> Path:
    file = folder / "points.csv"
    file.write_text(text)
    return file


def test_points_are_the_rows_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = table(tmp_path, "\ufeffmodel.embed_dim, optimizer ,tracking.experiment\r\n32,sgd,\r\n\r\n64,,a (b)\r\n")
    points = [
        {"model.embed_dim": "32", "optimizer": "sgd"},
        {"model.embed_dim": "64", "tracking.experiment": "'a (b)'"},
    ]
    assert read_points(file, None, ()) == points
    specs = space_of("model=tiny", "seed=0,1").grid(points)
    assert [spec.params["seed"] for spec in specs] == ["0", "1", "0", "1"]
    first, *_, last = (TrialComposer()(spec.overrides) for spec in specs)
    assert (first.model.embed_dim, first.optimizer.name.value, first.seed) == (32, "sgd", 0)
    assert (last.model.embed_dim, last.optimizer.name.value, last.tracking.experiment) == (64, "adamw", "a (b)")
    file = table(tmp_path, "model.embed_dim,model.depth\n32,1\n64,2\n")
    assert planned(tmp_path, capsys, "sweep.points=points.csv", keys=2) == [["32", "1"], ["64", "2"]]
    assert main(["train", "-m", "sweep=bayes", "sweep.points=points.csv", "seed=0,1"]) == 2
    assert "sweep.points: expected with sweep=grid or zip, received with bayes." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (None, [], ["sweep.points=points.csv", "No such file"]),
        ("", [], ["a row of keys and a row per trial", "received 0 rows"]),
        ("model.depth\n", [], ["received 1 rows"]),
        ("model.depht\n3\n", [], ["line 2", "Did you mean model.depth"]),
        ("model.depth,model.depth\n3,4\n", [], ["model.depth once", "two columns"]),
        ("model.depth\n3\n", ["model.depth=4"], ["model.depth once", "the command, too"]),
        ("model.depth,seed\n3\n", [], ["line 2", "expected 2 cells", "received 1"]),
        ('model.depth\n"3,4"\n', [], ["line 2", "one value"]),
        ("sweep.trials\n3\n", [], ["line 2", "a key of a run"]),
        ("optimizer\nadan\n", [], ["line 2", "optimizer=adan", "expected one of"]),
        ("model.depth\nx'\n", [], ["line 2", "a quote"]),
        ('model.depth\n"3\n', [], ["expected a CSV file", "unexpected end of data"]),
        ("model.depth\nmany\n4\n", [], ["model.depth", "a whole number", "'many'"]),
        ("model.embed_dim\n33\n64\n", [], ["model.embed_dim", "multiple", "33"]),
    ],
)
def test_a_bad_table_is_one_line_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    arguments: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        table(tmp_path, text)
    assert main(["train", "-m", "model=tiny", *arguments, "sweep.points=points.csv"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "multirun").exists()


def test_a_sweep_over_folds_ends_with_mean_deviation_and_one_confusion_matrix(tmp_path: Path) -> None:
    study = SweepStudy.new(
        tmp_path / "sweep", command=[], config_dir=None, search=None, objective="test/accuracy", direction="maximize"
    )
    space = space_of("model=tiny", "model.depth=1,2", "dataset.folds=3", "dataset.fold=range(3)")
    draw, matrices = np.random.default_rng(0), {}
    for spec, config in plan_trials(space.grid(), TrialComposer()).trials:
        trial = study.add_trial(spec, config)
        depth, folder = config.model.depth, study.folder_of(trial)
        matrices[depth, config.dataset.fold] = matrix = draw.integers(0, 9, (2, 2)) + 90 * depth * np.eye(2, dtype=int)
        write_confusion_matrix(folder, matrix, ["cat\udcff", "a,b"])
        accuracy = np.trace(matrix) / matrix.sum()
        result = {"status": "FINISHED", "metrics": {"test/accuracy": accuracy, "test/macro_f1": accuracy / 2}}
        RunFolder(folder).write_result(result)
    study.save()
    best = [matrices[2, fold] for fold in range(3)]
    values = np.array([np.trace(matrix) / matrix.sum() for matrix in best])
    text = folds_summary(SweepStudy.open(study.folder))
    mean, std = values.mean(), values.std(ddof=1)
    assert f"3 of 3 runs: test/accuracy {mean:.4f} ± {std:.4f}, test/macro_f1 {mean / 2:.4f} ± {std / 2:.4f}" in text
    assert str(study.folder / "confusion_matrix.csv") in text
    assert (study.folder / "confusion_matrix.png").stat().st_size > 1000
    found = read_confusion_matrix(study.folder)
    assert found is not None
    assert found[0] == ["cat\udcff", "a,b"]  # a folder's name that is no UTF-8
    np.testing.assert_array_equal(found[1], np.sum(best, axis=0))
    from tnt_exp.sweeps import results

    first, second = results.ranked(results.rows(study), study)
    assert (first.params["model.depth"], len(first.rows)) == ("2", 3)
    assert first.mean == pytest.approx(mean, rel=1e-15)
    assert first.std == pytest.approx(std, rel=1e-12)
    assert second.mean is not None
    cut = (study.folder / "4/confusion_matrix.csv").read_bytes()[:-3]
    for damaged in (b"", b"\xff", b"true class,a,b\na,1", cut):
        (study.folder / "4/confusion_matrix.csv").write_bytes(damaged)
        assert folds_summary(study) == text
        found = read_confusion_matrix(study.folder)
        assert found is not None
        np.testing.assert_array_equal(found[1], best[0] + best[2])
    assert folds_summary(SweepStudy(tmp_path, {**study.data, "points": []})) == ""
    for trial in study.trials:
        RunFolder(study.folder_of(trial)).write_result({"status": "FAILED", "cause": "error", "error": "disk full"})
    assert folds_summary(study) == ""
