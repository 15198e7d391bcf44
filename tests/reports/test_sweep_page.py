"""The page of a sweep, its leaderboard and its pictures."""

import csv
import json
import math
import re
import resource
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnt_exp.reports import sweep_figures
from tnt_exp.reports.leaderboard import (
    TrialRow,
    leaderboard_columns,
    main_effects,
    param_importances,
    rank_points,
    write_main_effects,
    write_points,
)
from tnt_exp.reports.sweep_figures import axis
from tnt_exp.reports.sweep_page import SweepResults, render_page


def row(job: int, objective: float | None, state: str = "finished", **params: object) -> TrialRow:
    texts = {key.replace("__", "."): str(value) for key, value in params.items()}
    return TrialRow(job=job, params=texts, state=state, objective=objective, command=f"tnt-exp train job={job}")


def test_points_that_differ_in_the_seed_are_one_place() -> None:
    rows = [
        row(0, 0.8, model__depth=2, seed=0),
        row(1, 0.9, model__depth=2, seed=1),
        row(2, 0.86, model__depth=4, seed=0),
        row(3, None, "failed", model__depth=4, seed=1),
        row(4, None, "failed", model__depth=8, seed=0),
    ]
    first, second, last = rank_points(rows, maximize=True)
    assert (first.params, first.rank) == ({"model.depth": "2"}, 1)
    assert first.mean == pytest.approx(0.85)
    assert first.std == pytest.approx(math.sqrt(0.005))
    # Its mean is higher, but of one run: the other may have failed because the values are bad.
    assert (second.params, second.rank, second.mean, second.std) == ({"model.depth": "4"}, 2, 0.86, None)
    assert (last.rank, last.mean) == (None, None)
    assert [place.params["model.depth"] for place in rank_points(rows, maximize=False)] == ["2", "4", "8"]
    table = leaderboard_columns([first, second, last], "val/accuracy")
    assert table["runs"] == [2, 1, 0]
    assert table["jobs"] == ["0 1", "2 3", "4"]


def test_points_csv_has_every_run(tmp_path: Path) -> None:
    write_points(tmp_path / "points.csv", [row(0, 0.5, model__depth=2), row(1, None, "failed", model__depth=4)])
    with (tmp_path / "points.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [(line["job"], line["model.depth"], line["state"]) for line in table] == [
        ("0", "2", "finished"),
        ("1", "4", "failed"),
    ]


def searched(noise: float, trials: int = 40) -> list[TrialRow]:
    """Random points of three seeds each: depth is worth 0.02, muon 0.05, the widths (one a point) nothing."""
    random, rows = np.random.default_rng(0), []
    for width in range(trials):
        depth, optimizer = random.choice([2, 10]), random.choice(["adamw", "muon", "sgd"])
        worth = 0.02 * (depth == 10) + 0.05 * (optimizer == "muon")
        rows += [
            row(len(rows), 0.3 + worth + noise * random.normal(), depth=depth, opt=optimizer, width=width, seed=seed)
            for seed in range(3)
        ]
    return rows


def test_effect_of_each_value() -> None:
    found = main_effects(rank_points(searched(noise=0.005), maximize=True))
    assert [(item.key, item.value) for item in found] == [
        ("opt", "adamw"),
        ("opt", "muon"),
        ("opt", "sgd"),
        ("depth", "2"),
        ("depth", "10"),
    ]
    for item, worth in zip(found, (0, 0.05, 0, 0, 0.02), strict=True):
        assert item.difference == pytest.approx(worth, abs=4 * item.error)
        # Two halves, or two thirds, of 40 points, the mean of three seeds each.
        assert item.error == pytest.approx(0 if item.value in ("adamw", "2") else 0.001, abs=0.0007)
    assert sum(item.points for item in found if item.key == "depth") == 40


def test_nothing_is_worth_anything_where_it_cannot_be_computed() -> None:
    rows = searched(0.005)
    assert main_effects(rank_points(rows[: 3 * 4], maximize=True)) == []  # as many values as points
    alike = [row(job, job / 10, depth=job % 2, width=job % 2) for job in range(8)]
    assert main_effects(rank_points(alike, maximize=True)) == []  # two keys that go together
    assert main_effects(rank_points([row(0, None, "failed", depth=1)], maximize=True)) == []
    assert main_effects([]) == []


def test_effect_of_each_value_as_a_file_and_a_picture(tmp_path: Path) -> None:
    rows = searched(0.005)
    found = main_effects(rank_points(rows, maximize=True))
    write_main_effects(tmp_path / "effects.csv", found)
    with (tmp_path / "effects.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [line["value"] for line in table] == ["adamw", "muon", "sgd", "2", "10"]
    assert float(table[1]["difference"]) == found[1].difference
    assert ET.fromstring(sweep_figures.effects_chart(found, "val/<accuracy>")) is not None
    assert "Effect of each value" in render_page(SweepResults("id", rows, "val/accuracy", True, {}, "folder"))
    assert "Effect of each value" not in render_page(SweepResults("id", rows[:6], "val/accuracy", True, {}, "folder"))


@given(st.lists(st.one_of(st.floats(allow_nan=False, width=32), st.text(max_size=5)), min_size=1, max_size=20))
def test_every_value_has_a_place_on_its_axis(values: list[float | str]) -> None:
    found = axis(values)
    for value in values:
        place = found.position(value)
        assert place is not None or value in (math.inf, -math.inf) or not found.categories
        assert place is None or -1e-9 <= place <= 1 + 1e-9
    assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in found.ticks)


def test_pictures_are_svg_and_escape_what_they_show() -> None:
    rows = [row(0, 0.5, name="<b>&"), row(1, 0.7, name='"x"'), row(2, None, "failed", name="y")]
    for text in (
        sweep_figures.parallel_coordinates(rows, "val/accuracy", maximize=True),
        sweep_figures.objective_scatter(rows, "name", "val/accuracy"),
        sweep_figures.best_curves({"job <0>": [(1, 0.5), (2, 0.7)], "one": [(1, 0.6)]}, "val/accuracy"),
    ):
        ET.fromstring(text)
    assert sweep_figures.parallel_coordinates(rows, "val/accuracy", maximize=True).count('class="run"') == 2


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href", "data", "action")]
        assert tag not in ("link", "iframe", "img")


def test_the_page_needs_nothing_else() -> None:
    rows = [row(job, job / 10, model__depth=job) for job in range(4)] + [row(4, None, "failed", model__depth=4)]
    text = render_page(SweepResults("id", rows, "val/accuracy", True, {"job 3": [(1, 0.1), (2, 0.3)]}, "folder"))
    links = Links()
    links.feed(text)
    assert links.found == []
    for namespace in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"):
        text = text.replace(namespace, "")
    assert "http" not in text
    assert "tnt-exp train job=3" in text
    assert 'class="failed">trial 4' in text


def test_a_sweep_without_any_result_has_a_page_too() -> None:
    assert "Leaderboard" in render_page(
        SweepResults("id", [row(0, None, "waiting", a=1)], "val/accuracy", True, {}, "folder")
    )


def big_sweep(folder: Path, trials: int) -> None:
    """A folder of a sweep that has ended, as 1,000 runs leave it."""
    study = {
        "command": [],
        "config_dir": None,
        "cwd": str(folder),
        "created": 0.0,
        "search": None,
        "objective": None,
        "direction": "maximize",
        "mlflow": None,
        "ended": 1.0,
        "points": [],
    }
    for job in range(trials):
        params = {"model.embed_dim": str(16 * (job % 10)), "optimizer.learning_rate": f"{10 ** -(1 + job % 7 / 2):.4g}"}
        params |= {"model.depth": str(job % 12), "seed": str(job % 3)}
        overrides = [f"{key}={value}" for key, value in params.items()]
        study["points"].append({"job": job, "overrides": overrides, "params": params, "hash": str(job), "trial": None})
        (folder / str(job)).mkdir(parents=True)
        accuracy = 1 - 1 / (1 + job)
        metrics = {f"{split}/{name}": accuracy for split in ("train", "val", "test") for name in ("accuracy", "loss")}
        result = {"status": "FINISHED", "metrics": metrics, "parameters": job, "macs": job, "total_seconds": 9.0}
        (folder / str(job) / "result.json").write_text(json.dumps(result, indent=2))
        lines = [f"{epoch},{accuracy * epoch / 100}" for epoch in range(1, 101)]
        (folder / str(job) / "metrics.csv").write_text("\n".join(["epoch,val/accuracy", *lines]) + "\n")
    (folder / "sweep.json").write_text(json.dumps(study))


def test_a_thousand_runs_take_seconds_and_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    big_sweep(folder, 1000)
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "tnt_exp", "report", str(folder)], check=True, capture_output=True)
    assert time.monotonic() - begin < 10
    taken = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    text = (folder / "report.html").read_text()
    assert text.count('class="run"') == 1000 + 4 * 1000 + 8  # lines, dots for each of four keys, curves
    assert len(text) < 5e6
    print(f"1,000 runs: {time.monotonic() - begin:.1f} s, at most {taken:.0f} MiB, page {len(text) / 1e6:.1f} MB")


def test_importances_of_a_grid_are_the_fractions_of_its_variance() -> None:
    """An additive grid: depth is worth 0.04 between its ends, the optimizer 0.02, the seed of noise nothing."""
    worth = {"2": 0.0, "4": 0.02, "6": 0.04, "adamw": 0.0, "muon": 0.02}
    rows = [
        row(0, 0.5 + worth[depth] + worth[name], depth=depth, opt=name, noise=noise)
        for depth in ("2", "4", "6")
        for name in ("adamw", "muon")
        for noise in ("a", "b")
    ]
    ranking = rank_points(rows, maximize=True)
    found = param_importances(ranking, main_effects(ranking))
    # Variances: depth 0.04² / 6, optimizer 0.01².
    assert list(found) == ["depth", "opt", "noise"]
    assert found["depth"] == pytest.approx(0.04**2 / 6 / (0.04**2 / 6 + 0.01**2))
    assert found["opt"] == pytest.approx(0.01**2 / (0.04**2 / 6 + 0.01**2))
    assert found["noise"] == pytest.approx(0.0, abs=1e-9)
    assert "<td>73%</td>" in render_page(SweepResults("id", rows, "val/accuracy", True, {}, "folder"))
    assert param_importances([], []) == {}
    equal = rank_points([row(job, 0.5, depth=job % 2, width=job // 2) for job in range(4)], maximize=True)
    assert param_importances(equal, main_effects(equal)) == {}


def test_the_best_lines_are_red_and_ties_are_of_one_colour() -> None:
    rows = [row(job, value, depth=job) for job, value in enumerate((0.5, 0.7, 0.7, 0.6))]
    for maximize, best in ((True, 2), (False, 1)):
        svg = sweep_figures.parallel_coordinates(rows, "val/accuracy", maximize=maximize)
        lines = re.findall(r'<path[^>]*class="run"[^>]*>', svg)
        assert len(lines) == 4
        assert sum("#c1121f" in line for line in lines) == best
        assert all(word in svg for word in (">best<", ">next<", ">last<"))
    rows.append(row(4, 0.9, "pruned", depth=4))  # it did not end so
    svg = sweep_figures.parallel_coordinates(rows, "val/accuracy", maximize=True)
    assert sum("#c1121f" in line for line in re.findall(r'<path[^>]*class="run"[^>]*>', svg)) == 2


@pytest.mark.filterwarnings("error")
def test_long_names_leave_room_for_the_pictures() -> None:
    """Matplotlib warns where the text around a plot leaves nothing for the plot."""
    word = "a_long_name_of_a_folder_" * 6
    rows = [row(job, 0.5 + job / 10, dataset__path=f"/data/{word}{job}", width=job % 2) for job in range(5)]
    text = render_page(
        SweepResults("id", rows, "val/accuracy", True, {rows[0].label * 3: [(1, 0.1), (2, 0.3)]}, "folder")
    )
    assert text.count(">/data/a_l…_of_a_folder_4</text>") == 2  # the axis of each picture; tooltips have all of it
    assert f"dataset.path=/data/{word}4" in text
    curves = re.findall(
        r"<text[^>]*>([^<]*)</text>", sweep_figures.best_curves({rows[0].label * 3: [(1, 0.1)]}, "loss")
    )
    assert max(map(len, curves)) <= 115
