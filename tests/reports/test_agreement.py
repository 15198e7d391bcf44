"""Terminal, page and MLflow give one answer to which trial is the best, by how much, and whether that is chance."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from finished_sweeps import FakeTrial, write_sweep

from tnt_exp.atomic_files import acquire_lock, release_lock
from tnt_exp.cli import main
from tnt_exp.reports.leaderboard import TrialRow, leaderboard_columns, rank_points, verdict
from tnt_exp.reports.sweep_page import render_page
from tnt_exp.sweeps import results
from tnt_exp.sweeps.scheduler import GridSource, Scheduler
from tnt_exp.sweeps.summary import end_summary, trials_summary
from tnt_exp.tracking.client import init_sqlite_store
from tnt_exp.tracking.record import NOTE

# Of the 144 validation images of the digits; the kept epoch is not the last, and the last epochs rank otherwise.
TIES = [
    FakeTrial({"model.depth": "2"}, [135, 139, 137], 345),
    FakeTrial({"model.depth": "3"}, [140, 136, 135], 343),
    FakeTrial({"model.depth": "4"}, [138, 138, 138], 341),
    FakeTrial({"model.depth": "5"}, [100, 140, 101], 350),
]
ORDER = ["3", "5", "2", "4"]
VERDICT = [
    "2 are tied as the best: model.depth=3, model.depth=5: best/val/accuracy 0.9722 (4 of 144 wrong), "
    "test/accuracy 0.9528, 0.9722.",
    "They lead model.depth=2 by 0.0069, 1 of 144 images. That may be chance: two standard errors on 144 images are "
    "0.0410, and 2 of the 2 ranked below are that near. Repeat the best ones with several seeds (seed=0,1,2) to know.",
]


def test_terminal_page_and_mlflow_agree_on_a_sweep_with_ties(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "multirun/sweeps/2026-11-28_12-00-00_a1b2c3"
    init_sqlite_store(uri)
    monkeypatch.chdir(tmp_path)
    study = write_sweep(folder, uri, TIES)
    here, there = results.load_results(study), results.load_results_from_mlflow(uri, study.id)
    for found in (here, there):
        assert [(point.rank, point.params["model.depth"]) for point in found.ranking] == list(
            zip([1, 1, 3, 4], ORDER, strict=True)
        )
        assert found.verdict == VERDICT
        page = re.sub(r"<[^>]+>", "\n", render_page(found))
        assert [line for line in page.splitlines() if line in VERDICT] == VERDICT

    # ---- Terminal: at the end of the sweep, afterwards, and as a reference
    text = end_summary(study, Scheduler(study, GridSource([], 4)))
    assert [line for line in text.splitlines() if line in VERDICT] == VERDICT
    rows = [line.split() for line in text.splitlines() if re.match(r" *\d+  ", line)]
    assert [row[:4] for row in rows] == [
        ["1", "3", "0.9722", "0.9528"],
        ["1", "5", "0.9722", "0.9722"],
        ["3", "2", "0.9653", "0.9583"],
        ["4", "4", "0.9583", "0.9472"],
    ]
    assert trials_summary(study).splitlines()[-3:] == [*VERDICT, f"settings   {folder}/1/config.yaml"]

    # ---- MLflow: the parent's description, its table, and the descriptions and names of the trials
    client = mlflow.MlflowClient(uri)
    runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("tnt").experiment_id])}
    parent = runs.pop("sweep depth a1b2c3")
    assert set(runs) == {"depth=2", "depth=3", "depth=4", "depth=5"}
    note = parent.data.tags[NOTE]
    assert [line.removeprefix("- ") for line in note.splitlines() if line.startswith("- ")] == VERDICT
    assert re.findall(r"\| (\d) \| \[model.depth=(\d)\]", note) == list(zip("1134", ORDER, strict=True))
    best = runs["depth=3"]
    assert f"/runs/{best.info.run_id}?" in note
    assert (parent.data.tags["best_run_id"], best.data.tags["best_epoch"]) == (best.info.run_id, "1")
    assert "Epoch 1 of 3 was kept: validation accuracy 0.9722 (4 of 144 wrong), test" in best.data.tags[NOTE]
    for name, rank in {
        "depth=3": "1 (2 are equal)",
        "depth=5": "1 (2 are equal)",
        "depth=2": "3",
        "depth=4": "4",
    }.items():
        assert f"Rank {rank} of 4 in [sweep {study.id}](#/experiments/" in runs[name].data.tags[NOTE]
    figures = sorted((run.data.metrics["best/val/accuracy"] for run in runs.values()), reverse=True)
    assert figures == [point.mean for point in here.ranking]
    table = json.loads(
        Path(client.download_artifacts(parent.info.run_id, "leaderboard.json", str(tmp_path))).read_text()
    )
    assert [row[:2] for row in table["data"]] == [[1, "3"], [1, "5"], [3, "2"], [4, "4"]]

    # ---- The best of the sweep, as a RUN
    from tnt_exp.finished_runs.find import find_run

    zipfile.ZipFile(folder / "1/model.keras", "w").close()
    assert find_run(f"best:{folder}").path == folder / "1"
    assert main(["sweep", "status", str(folder)]) == 0
    assert "\n".join(VERDICT) in capsys.readouterr().out


def test_folder_and_mlflow_agree_on_keys_that_another_start_fixed_and_on_trials_that_did_not_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    init_sqlite_store(uri)
    monkeypatch.chdir(tmp_path)
    lion, deep = {"model.depth": "2", "optimizer": "lion"}, {"optimizer": "lion", "augmentation": "[crop_flip,mixing]"}
    study = write_sweep(
        tmp_path / "my sweep",
        uri,
        [
            FakeTrial({"seed": "0"}, [130, 135], 340, lion),
            FakeTrial({"seed": "1"}, [130, 137], 342, lion),
            FakeTrial({"optimizer": "adamw", "seed": "0"}, [100, 120], 350, {"model.depth": "2"}),
            FakeTrial({"model.depth": "3", "seed": "0"}, [72, 36], 300, deep, "pruned"),
            FakeTrial({"model.depth": "3", "seed": "1"}, [72, 36], 300, deep, "stopped"),
        ],
    )
    here, there = results.load_results(study), results.load_results_from_mlflow(uri, study.id)
    for found in (here, there):
        assert [(point.label, len(point.rows), point.mean) for point in found.ranking] == [
            ("optimizer=lion model.depth=2", 2, pytest.approx(136 / 144)),
            ("optimizer=adamw model.depth=2", 1, pytest.approx(120 / 144)),
            ("optimizer=lion model.depth=3 augmentation=[crop_flip,mixing]", 2, None),
        ]
        assert [row.state for row in found.rows] == ["finished"] * 3 + ["pruned", "waiting"]
        assert [row.objective for row in found.rows[3:]] == [0.25, None]
        assert list(found.curves) == list(here.curves) != []
    assert trials_summary(study).split()[:5] == ["job", "seed", "optimizer", "model.depth", "augmentation"]
    held = acquire_lock(study.folder / "4/.lock")
    assert held is not None
    assert trials_summary(study).splitlines()[5].split()[-2] == "running"
    release_lock(held)
    assert trials_summary(study).splitlines()[5].split()[-2] == "waiting"

    # ---- A metric of the result has no curve
    client = mlflow.MlflowClient(uri)
    (parent,) = client.search_runs([client.get_experiment_by_name("tnt").experiment_id], "tags.sweep = 'parent'")
    assert parent.data.tags["swept"] == "seed optimizer model.depth augmentation"
    assert parent.data.tags["command"] == "tnt-exp train -m 'model.depth=choice(2,3)'"
    client.set_tag(parent.info.run_id, "objective", "train_seconds")
    there = results.load_results_from_mlflow(uri, study.id)
    assert ([row.objective for row in there.rows], there.curves) == ([12.0, 13.0, 14.0, None, None], {})

    # ---- All are compared by one metric, which each has
    file = study.folder / "0/result.json"
    result = json.loads(file.read_text())
    del result["metrics"]["val/accuracy"]
    file.write_text(json.dumps(result))
    here, scheduler = results.load_results(study), Scheduler(study, GridSource([], 5))
    assert here.objective == "test/accuracy"
    assert [row.objective for row in here.rows[:3]] == pytest.approx([340 / 360, 342 / 360, 350 / 360])
    assert (scheduler.objective, scheduler.best) == ("test/accuracy", study.trials[2])
    assert scheduler.best_value == pytest.approx(350 / 360)

    # ---- sweep.fail_fast leaves failed trials and others that did not begin
    file = study.folder / "3/result.json"
    file.write_text(file.read_text().replace("pruned", "error"))
    lines = end_summary(study, Scheduler(study, GridSource([], 5))).splitlines()[-2:]
    assert lines == [
        f"{word:11}tnt-exp sweep resume '{study.folder}'{changed}"
        for word, changed in (("again", " sweep.rerun=failed"), ("resume", ""))
    ]

    # ---- A page says that it is UTF-8, whatever the terminal has
    ascii_only = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-m", "tnt_exp", "report", study.folder], env=ascii_only, check=True)
    assert " · highest test/accuracy first" in (study.folder / "report.html").read_text("utf-8")


def test_means_are_of_the_runs_that_finished() -> None:
    rows = [row(0, 2.0, depth=1, seed=0), row(1, 4.0, depth=1, seed=1), row(2, None, depth=1, seed=2)]
    rows = [
        replace(each, facts={"train_seconds": seconds}) for each, seconds in zip(rows, (2.0, 4.0, 9.0), strict=True)
    ]
    ranking = rank_points([*rows, row(3, 5.0, depth=2)], maximize=False)
    assert (ranking[1].params, ranking[1].rank) == ({"depth": "1"}, 2)
    assert verdict([replace(ranking[1], rank=1)], "train_seconds", None) == [
        "Best: depth=1: train_seconds 3.0000 (mean of 2 runs)."
    ]
    table = leaderboard_columns(ranking, "val/accuracy")
    assert (table["runs"], table["train_seconds"]) == ([1, 2], [None, 3.0])
    assert leaderboard_columns(ranking, "train_seconds")["train_seconds"] == [5.0, 3.0]


def row(job: int, objective: float | None, **params: object) -> TrialRow:
    texts = {key: str(value) for key, value in params.items()}
    return TrialRow(job, texts, "finished" if objective is not None else "failed", objective)


def test_ranks_of_equal_points_are_equal_and_an_incomplete_point_ties_with_none() -> None:
    rows = [row(0, 0.5, depth=1), row(1, 0.1 + 0.2, depth=2), row(2, 0.3, depth=3), row(3, 0.2, depth=4)]
    ranking = rank_points(rows, maximize=True)
    assert [(point.rank, point.params["depth"]) for point in ranking] == [(1, "1"), (2, "2"), (2, "3"), (4, "4")]
    assert leaderboard_columns(ranking, "val/accuracy")["rank"] == [1, 2, 2, 4]
    half = [row(0, 0.5, depth=1), row(1, 0.5, depth=2, seed=0), row(2, None, depth=2, seed=1)]
    assert [point.rank for point in rank_points(half, maximize=True)] == [1, 2]
    assert [point.rank for point in rank_points([row(0, None, depth=1)], maximize=True)] == [None]


def test_verdicts() -> None:
    def of(rows: list[TrialRow], images: int | None = None, maximize: bool = True) -> list[str]:
        return verdict(rank_points(rows, maximize=maximize), "val/accuracy", images)

    assert of([row(0, None, depth=1)]) == ["No trial has finished with val/accuracy."]
    assert of([row(0, 0.9, depth=1)]) == ["Best: depth=1: best/val/accuracy 0.9000."]
    # sqrt(0.9 * 0.1 / 1000 + 0.8 * 0.2 / 1000) = 0.0158
    assert of([row(0, 0.9, depth=1), row(1, 0.8, depth=2)], 1000)[-1] == (
        "It leads depth=2 by 0.1000, 100 of 1,000 images. That is more than two standard errors on 1,000 images "
        "(0.0316): unlikely to be chance."
    )
    assert of([row(0, 0.3, depth=1), row(1, 0.8, depth=2)], maximize=False)[-1] == (
        "It leads depth=2 by 0.5000. Whether that is more than chance is known with several seeds (seed=0,1,2)."
    )
    # Means 0.5 and 0.499 of two seeds; standard deviations 0.1 * sqrt(2) and 0: the error is 0.1.
    seeds = [row(0, 0.4, depth=1, seed=0), row(1, 0.6, depth=1, seed=1)]
    seeds += [row(2, 0.499, depth=2, seed=0), row(3, 0.499, depth=2, seed=1)]
    assert of(seeds, 100) == [
        "Best: depth=1: best/val/accuracy 0.5000 (mean of 2 runs, 50 of 100 wrong).",
        "It leads depth=2 by 0.0010, 0.1 of 100 images: less than one image. That may be chance: two standard errors "
        "over 2 runs are 0.2000, and 1 of the 1 ranked below are that near. Repeat the best ones with more seeds to "
        "know.",
    ]
