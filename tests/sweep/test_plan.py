"""From a command to points: spelling, expansion, composition, checks, endings."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.atomic_files import acquire_lock, atomic_write_json, read_json
from tnt_exp.cli import main
from tnt_exp.config.compose import compose, conf_dir, options, register
from tnt_exp.errors import UserError
from tnt_exp.sweeps.outcome import FailureReason, Outcome, from_exit_code, read_outcome, write_outcome
from tnt_exp.sweeps.plan import TrialComposer, plan_trials
from tnt_exp.sweeps.search_space import SearchSpace, to_hydra_overrides
from tnt_exp.sweeps.trial import TrialSpec, TrialState, objective_value, trial_state


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


def test_a_lock_has_one_owner(tmp_path: Path) -> None:
    first = acquire_lock(tmp_path / "lock")
    assert first is not None
    assert acquire_lock(tmp_path / "lock", wait=0.1) is None
    first.close()
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
