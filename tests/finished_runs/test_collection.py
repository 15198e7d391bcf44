"""Runs as data: read from their folders, chosen, and tabulated."""

import fcntl
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from finished_runs.fake_runs import write_run

from tnt_exp.cli import main
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.collection import Run, RunCollection, runs

REFERENCE = Path(__file__).parents[1] / "reference"  # runs of an older layout of the folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two depths of three seeds, a sweep, and runs in other states."""
    working = tmp_path_factory.mktemp("working")
    place = working / "multirun/runs"
    for depth in (2, 3):
        for seed in (0, 1, 2):
            name, second = f"d{depth}s{seed}", 10 * depth + seed
            overrides = [f"model.depth={depth}", f"seed={seed}", f"run.name={name}"]
            write_run(place / name, *overrides, accuracy=0.2 * depth + seed / 100, second=second)
    write_run(place / "failed", "seed=7", accuracy=0.99, status="FAILED", second=50, error="ValueError: no")
    write_run(place / "dead", "seed=8", accuracy=None, second=51)
    (place / "dead/.lock").touch()
    sweep = working / "multirun/sweeps/s"
    for job in (2, 10):
        write_run(sweep / str(job), f"seed={job}", "optimizer.learning_rate=1.0e-4", accuracy=0.1, second=60)
    write_run(sweep / "11", "seed=11", accuracy=None, second=60)
    (sweep / "sweep.json").write_text('{"points": [], "created": 0}')
    (working / "multirun/notes").mkdir()
    (working / "multirun/notes/config.yaml").write_text("mine: true\n")  # of somebody else
    return working


def test_runs_of_a_folder_are_found_the_newest_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = runs()
    assert [run.name for run in found[:5]] == ["s/11", "s/10", "s/2", "dead", "failed"]
    assert [run.state for run in found[:5]] == ["SCHEDULED", "FINISHED", "FINISHED", "KILLED", "FAILED"]
    assert len(found) == 11
    assert [run.name for run in runs("s")] == ["s/11", "s/10", "s/2"]
    assert runs("d2s1")[0].path == folder / "multirun/runs/d2s1"
    assert runs("s/10")[0].config.optimizer.learning_rate == 1e-4
    assert repr(runs("s")) == "<3 runs: 2 FINISHED, 1 SCHEDULED>"


def test_copies_in_mlflow_are_no_runs(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(folder, copy / "multirun")
    names = {run.name for run in runs(copy)}
    artifacts = copy / "mlartifacts/0123456789abcdef0123456789abcdef/artifacts"
    shutil.copytree(next(path.parent for path in folder.rglob("result.json")), artifacts)
    assert {run.name for run in runs(copy)} == names
    assert names


def test_a_locked_folder_is_of_a_running_run(folder: Path) -> None:
    with (folder / "multirun/runs/dead/.lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert Run(folder / "multirun/runs/dead").state == "RUNNING"


def test_table_has_what_varies_and_the_final_metrics(folder: Path) -> None:
    table = runs(folder / "multirun/runs").filter("name=d2s0,d2s1,d3s0").table()
    assert list(table.columns[:3]) == ["name", "model.depth", "seed"]
    assert list(table.columns[-3:]) == ["state", "started", "path"]
    row = table.set_index("name").loc["d3s0"]
    assert (row["model.depth"], row["seed"], row["best/val/accuracy"], row["best_epoch"]) == (
        3,
        0,
        0.6000000000000001,
        3,
    )
    assert (row["train/loss"], row["total_seconds"], row["state"]) == (0.6000000000000001 + 0.1, 9.5, "FINISHED")
    assert "optimizer.learning_rate" not in table
    assert len(RunCollection([]).table()) == 0
    shown = runs(folder / "multirun/runs").filter("name=d2s0,d3s0")._repr_html_()
    assert [word in shown for word in ("d3s0", "model.depth", "test/accuracy", "FINISHED", str(folder))] == [
        True
    ] * 4 + [False]


def test_curves_are_one_long_table(folder: Path) -> None:
    found = runs(folder / "multirun/runs").filter("model.depth=2,3", "state=FINISHED").curves(["val/accuracy"])
    assert list(found.columns) == ["name", "model.depth", "seed", "epoch", "metric", "value"]
    assert len(found) == 6 * 3
    assert {*runs(folder / "multirun/runs/d2s0").curves("val/loss")["metric"]} == {"val/loss"}
    curve = found[found["name"] == "d2s0"].sort_values("epoch")
    np.testing.assert_allclose(curve["value"], [0.4 * (epoch / 3) for epoch in (1, 2, 3)], rtol=1e-15)
    assert {*runs(folder / "multirun/runs/d2s0").curves()["metric"]} >= {"train/loss", "val/accuracy"}
    with pytest.raises(UserError, match=r"val/acuracy.*Did you mean val/accuracy"):
        runs(folder / "multirun/runs/d2s0").curves(["val/acuracy"])


def test_best_is_the_best_of_the_finished_runs(folder: Path) -> None:
    found = runs(folder / "multirun")
    assert found.best().name == "d3s2"  # the failed run has a higher value
    assert found.best("test/loss").name == "d3s2"
    assert found.best("test/accuracy", maximize=False).name in ("s/2", "s/10")
    with pytest.raises(UserError, match="test/acuracy: expected a metric of a finished run"):
        found.best("test/acuracy")
    with pytest.raises(UserError, match="test/accuracy"):
        found.filter("name=dead").best()


@pytest.mark.parametrize(
    ("conditions", "values", "names"),
    [
        (["model.depth=3"], {}, ["d3s2", "d3s1", "d3s0"]),
        ([], {"model__depth": 3, "seed": 1}, ["d3s1"]),
        (["seed=1,2", "model.depth = 2", "name!=s/2"], {}, ["d2s2", "d2s1"]),
        (["test/accuracy > 0.605", "state=FINISHED"], {}, ["d3s2", "d3s1"]),
        (["test/accuracy<=0.1"], {}, ["s/10", "s/2"]),
        (["state!=FINISHED"], {}, ["s/11", "dead", "failed"]),
        (["state == FAILED"], {}, ["failed"]),
        (["model.qkv_bias=False", "name=d2s0"], {"model__qkv_bias": np.False_}, ["d2s0"]),
        (["optimizer.learning_rate=0.0001"], {}, ["s/10", "s/2"]),
        (["model.mean=[0.5]", "name=d2s0"], {}, ["d2s0"]),
        (["dataset.path=null", "name=d2s0"], {}, ["d2s0"]),
        ([lambda run: run.metrics.get("test/accuracy", 0) > 0.9], {}, ["failed"]),
    ],
)
def test_filter(folder: Path, conditions: list[object], values: dict[str, object], names: list[str]) -> None:
    assert [run.name for run in runs(folder / "multirun").filter(*conditions, **values)] == names


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("modle.depth=3", "Did you mean model.depth?"),
        ("model.depth", "expected KEY=VALUE"),
        ("test/accuracy>much", "expected a number after >"),
    ],
)
def test_a_condition_that_cannot_be_used_is_one_line(folder: Path, condition: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        runs(folder / "multirun", condition)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_group_mean_is_that_of_numpy(folder: Path) -> None:
    found = runs(folder / "multirun/runs").filter("state=FINISHED").group_mean().set_index("model.depth")
    for depth in (2, 3):
        values = [0.2 * depth + seed / 100 for seed in (0, 1, 2)]
        row = found.loc[depth]
        assert row["runs"] == 3
        assert row["test/accuracy"] == pytest.approx(np.mean(values), rel=1e-15)
        assert row["test/accuracy_std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    both = runs(folder / "multirun/runs").filter("state=FINISHED").group_mean(over=["seed", "model.depth"])
    assert list(both["runs"]) == [6]


def test_runs_of_an_older_layout_are_read() -> None:
    found = runs(REFERENCE)
    table = found.table().set_index("name")
    assert table.loc["digits"]["best/val/accuracy"] == 0.19230769230769232
    assert table.loc["stopped"]["state"] == "KILLED"
    assert table.loc["digits"].get("trainer.tf32", True)  # a later key: the run did what its default says
    assert all(run.params["trainer.tf32"] == run.config.trainer.tf32 for run in found)


def test_a_damaged_run_does_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "multirun/runs/d2s0", tmp_path / "a")
    shutil.copytree(folder / "multirun/runs/d2s1", tmp_path / "b")
    (tmp_path / "a/config.yaml").write_text("model:\n  depth: 2\n")
    (tmp_path / "a/result.json").write_text("{")
    assert [run.name for run in runs(tmp_path).filter("state=FINISHED")] == ["b"]
    assert len(runs(tmp_path).table()) == 2


def test_what_is_no_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(runs()) == 0
    with pytest.raises(UserError, match="nowhere: expected a folder of runs"):
        runs("nowhere")
    with pytest.raises(UserError, match=r"received one without config\.yaml"):
        Run(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_thousand_runs_are_a_table_in_less_than_three_seconds(tmp_path: Path) -> None:
    first = write_run(tmp_path / "r0", accuracy=0.25, epochs=100)
    files = {file.relative_to(first): file.read_text() for file in first.rglob("*") if file.is_file()}
    for number in range(1, 1000):
        for name, text in files.items():
            file = tmp_path / f"r{number}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("0.25", f"0.{number:03}").replace("depth: 2", f"depth: {number % 7}"))
    import pandas as pd

    assert pd.DataFrame().empty
    begin = time.process_time()
    table = runs(tmp_path).table()
    seconds = time.process_time() - begin
    assert seconds < 3, seconds
    assert len(table) == 1000
    row = table.set_index("name").loc["r123"]
    assert (row["model.depth"], row["test/accuracy"], row["val/accuracy"]) == (123 % 7, 0.123, 0.123)


def test_list_shows_them(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "seed=0,1,2", "optimizer.learning_rate!=1e-4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "val", "acc", "test", "acc", "model.depth", "seed", "time", "started"]
    assert lines[1].split()[:6] == ["d3s2", "FINISHED", "0.6200", "0.6200", "3", "2"]
    assert max(map(len, lines)) <= 80
    monkeypatch.setenv("COLUMNS", "200")
    with monkeypatch.context() as elsewhere:  # a run says in which time zone it began; the table has one for all runs
        elsewhere.setenv("TZ", "XXX-5:30")
        time.tzset()
        assert main(["list", "d3s2"]) == 0
    time.tzset()
    assert "2026-05-01 17:3" in capsys.readouterr().out
    assert main(["list", "multirun", "--limit", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 11 runs; --limit 0 shows all"
    assert main(["list", "multirun/sweeps", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == ["s/11", "s/10", "s/2"]
    assert listed[1]["metrics"]["test/accuracy"] == 0.1
    assert listed[1]["params"]["optimizer.learning_rate"] == 1e-4
    for arguments in (["nowhere"], ["multirun", "sed=1"], ["multirun", "seed"], ["multirun", "seed>x"], ["--limit=-1"]):
        assert main(["list", *arguments]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1, printed.err
