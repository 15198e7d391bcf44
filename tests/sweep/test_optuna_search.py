"""Search: on a function with a known optimum, and the same trials after an interruption."""

import json
import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from finished_sweeps import runs
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath

from tnt_exp.config import Config
from tnt_exp.config.compose import conf_dir, register
from tnt_exp.config.sweep import Direction, Method, SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.sweeps.optuna_search import OptunaSearch, search_fingerprint
from tnt_exp.sweeps.plan import TrialComposer
from tnt_exp.sweeps.search_space import SearchSpace
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import Trial

KEYS = [
    "model=tiny",
    "model.embed_dim=range(32,129,2)",
    "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))",
    "optimizer.weight_decay=interval(0,0.2)",
]


def objective(config: Config) -> float:
    """At most 1, at embed_dim 64, learning rate 1e-3, decay 0.05."""
    width = (config.model.embed_dim - 64) / 64
    rate = math.log10(config.optimizer.learning_rate) + 3
    decay = (config.optimizer.weight_decay - 0.05) * 5
    return 1 - width**2 / 4 - rate**2 / 4 - decay**2 / 4


def space_of(*overrides: str) -> SearchSpace:
    register()
    path: ConfigSearchPath = create_config_search_path(str(conf_dir()))
    return SearchSpace(overrides, {}, ConfigLoaderImpl(path))


def create_study(folder: Path, space: SearchSpace, settings: SweepConfig, parallel: int) -> SweepStudy:
    if (folder / "sweep.json").exists():
        return SweepStudy.open(folder)
    return SweepStudy.new(
        folder,
        command=[],
        config_dir=None,
        search=search_fingerprint(space, settings, parallel),
        objective=None,
        direction=settings.direction.name,
    )


def end(study: SweepStudy, trial: Trial, result: dict[str, Any]) -> None:
    (study.folder_of(trial) / "result.json").write_text(json.dumps(result))


def search(folder: Path, settings: SweepConfig, parallel: int = 1, stop: int | None = None, *keys: str) -> SweepStudy:
    """Run a search whose jobs end at once, in any order; `stop`: die after so many endings."""
    space = space_of(*KEYS, *keys)
    study = create_study(folder, space, settings, parallel)
    found = OptunaSearch(study, space, settings, TrialComposer(), parallel)
    study.save()
    chance, running, ended = random.Random(stop), [], 0
    while True:
        while (trial := found.next()) is not None:
            running.append(trial)
        if not running or ended == stop:
            return study
        trial = running.pop(chance.randrange(len(running)))
        sign = 1 if settings.direction is Direction.maximize else -1
        if trial.job % 10 == 7:
            end(study, trial, {"status": "FAILED", "metrics": {}, "error": "x", "cause": "error"})
        else:
            value = sign * objective(study.config(trial))
            end(study, trial, {"status": "FINISHED", "metrics": {"val/accuracy": value}})
        found.on_trial_end(trial)
        ended += 1


def params(study: SweepStudy) -> list[dict[str, str]]:
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize(("seed", "direction"), [(0, Direction.maximize), (1, Direction.minimize)])
def test_sixty_trials_come_within_one_percent_though_some_fail(tmp_path: Path, seed: int, direction: Direction) -> None:
    settings = SweepConfig(method=Method.bayes, trials=60, seed=seed, direction=direction)
    study = search(tmp_path / "sweep", settings)
    values = [
        abs(result["metrics"]["val/accuracy"])
        for trial in study.trials
        if (result := study.result(trial)) and result["status"] == "FINISHED"
    ]
    assert len(study.data["trials"]) == 60
    assert max(values) > 0.99


@pytest.mark.parametrize(("method", "parallel"), [(Method.bayes, 1), (Method.bayes, 3), (Method.random, 3)])
def test_an_interrupted_search_asks_for_the_same_trials(tmp_path: Path, method: Method, parallel: int) -> None:
    settings = SweepConfig(method=method, trials=24, seed=5)
    whole = search(tmp_path / "whole", settings, parallel)
    for stop in (3, 5, 8):
        search(tmp_path / "broken", settings, parallel, stop)
    broken = search(tmp_path / "broken", settings, parallel)
    assert params(broken) == params(whole)
    assert len({json.dumps(trial) for trial in params(whole)}) == 24


def load(study: SweepStudy) -> optuna.Study:
    """The study as Optuna and its dashboard read it (docs/sweeps.md)."""
    backend = optuna.storages.journal.JournalFileBackend(str(study.folder / "optuna.log"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


@pytest.mark.parametrize("parallel", [1, 3])
def test_the_study_on_disk_has_the_trials_values_and_states_of_the_sweep(tmp_path: Path, parallel: int) -> None:
    settings = SweepConfig(method=Method.random, trials=12, seed=3)
    study = search(tmp_path / "sweep", settings, parallel, None, "model.num_heads=2,64")
    (study.folder / "optuna.log.lock").touch()  # a process was killed while it wrote

    def check() -> None:
        found = load(study)
        assert len(found.trials) == 12
        for trial, recorded in zip(found.trials, study.data["trials"], strict=True):
            assert trial.params == recorded["values"]
            results = [study.result(study.trials[job]) for job in recorded["jobs"]]
            if results and results[0] and results[0]["status"] == "FINISHED":
                assert (trial.state.name, trial.value) == ("COMPLETE", results[0]["metrics"]["val/accuracy"])
            else:
                assert (trial.state.name, trial.value) == ("FAIL", None)
        assert found.best_value == max(trial.value for trial in found.trials if trial.value is not None)
        assert 0 < [trial.state.name for trial in found.trials].count("FAIL") < 12

    check()
    for left in study.folder.glob("optuna.log*"):
        left.unlink()
    search(tmp_path / "sweep", settings, parallel, None, "model.num_heads=2,64")  # nothing is left to run
    check()


def test_each_trial_runs_with_every_fold_and_seed(tmp_path: Path) -> None:
    settings = SweepConfig(method=Method.bayes, trials=2)
    study = search(tmp_path / "sweep", settings, 1, None, "dataset.folds=2", "dataset.fold=0,1", "seed=0,1")
    found = [(trial.trial, trial.params["seed"], trial.params["dataset.fold"]) for trial in study.trials]
    repeats = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]
    assert found == [(number, *repeat) for number in (0, 1) for repeat in repeats]
    assert set(load(study).trials[0].params) == {key.partition("=")[0] for key in KEYS[1:]}


def test_each_trial_runs_with_every_seed_and_counts_by_the_mean(tmp_path: Path) -> None:
    settings = SweepConfig(method=Method.bayes, trials=4)
    study = search(tmp_path / "sweep", settings, 1, None, "seed=0,1,2")
    assert [trial.params["seed"] for trial in study.trials] == ["0", "1", "2"] * 4
    assert [trial.trial for trial in study.trials] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_point_that_cannot_run_is_a_failed_trial(tmp_path: Path) -> None:
    settings = SweepConfig(method=Method.random, trials=10)
    study = search(tmp_path / "sweep", settings, 1, None, "model.num_heads=2,64")
    invalid = [trial for trial in study.data["trials"] if "invalid" in trial]
    assert invalid
    assert "model.num_heads" in invalid[0]["invalid"]
    assert len(study.trials) + len(invalid) == 10


@pytest.mark.parametrize("values", ["interval(1,1)", "tag(log,interval(0,1))"])
def test_bad_values_are_named(tmp_path: Path, values: str) -> None:
    with pytest.raises(UserError, match=r"optimizer.beta_1: expected interval"):
        search(tmp_path, SweepConfig(method=Method.random), 1, None, f"optimizer.beta_1={values}")


def test_a_search_from_the_command_line_prunes_and_continues(folder: Any) -> None:
    arguments = [
        "sweep=bayes",
        "model.embed_dim=range(16,129,2)",
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))",
        "trainer.epochs=8",
        "tracking.run_name=sleep0.25",
        "sweep.pruning_epochs=1",
        "sweep.seed=1",
        "tracking=default",
    ]
    folder.run(*arguments, "sweep.trials=6")
    text = folder.run(*arguments, "sweep.trials=9")
    assert len(folder.sweeps) == 1
    assert "hydra.sweeper.trials=9" in folder.study()["command"]  # `sweep resume` continues as far
    (parent,), children = runs(folder.path)
    assert parent.data.tags["swept"] == "model.embed_dim optimizer.learning_rate"
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    assert parent.data.tags["best_run_id"] in {child.info.run_id for child in children}
    assert all(key in child.data.params for child in children for key in parent.data.tags["swept"].split())
    states = [result.get("cause", "finished") for result in folder.results().values()]
    assert len(states) == 9
    assert set(states) == {"finished", "pruned"}
    reasons = [result["error"] for result in folder.results().values() if result.get("cause") == "pruned"]
    assert all(reason.endswith(": worse than the median") for reason in reasons)  # above it, if the sweep minimizes
    assert f"{states.count('pruned')} pruned" in text


def test_a_search_without_a_trial_that_can_run_says_so(folder: Any) -> None:
    text = folder.run("sweep=random", "sweep.trials=2", "model.embed_dim=21,23", code=1)
    reasons = [line for line in text.splitlines() if line.startswith("left out ")]
    assert len(reasons) == 2
    assert "left out   model.embed_dim=2" in reasons[0]
    assert "model.embed_dim: expected a multiple" in reasons[0]
    assert "no trials" in text
