"""Runs compared: what differs, and whether it is significant."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from finished_runs.fake_runs import write_run
from PIL import Image
from scipy import stats

from tnt_exp.cli import main
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.collection import Run, runs
from tnt_exp.finished_runs.comparison import compare

REFERENCE = Path(__file__).parents[1] / "reference"  # runs of an older layout of the folder
SHALLOW, DEEP = (0.91, 0.93, 0.90, 0.92, 0.935), (0.94, 0.951, 0.945, 0.95, 0.955)


def group(folder: Path, depth: int, accuracies: Sequence[float], first_seed: int = 0) -> Path:
    for number, accuracy in enumerate(accuracies):
        seed = first_seed + number
        write_run(folder / f"{depth}-{seed}", f"model.depth={depth}", f"seed={seed}", accuracy=accuracy, second=seed)
    return folder


def test_two_runs_that_differ_in_one_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, depth, accuracy in (("first", 2, 0.9), ("second", 3, 0.95)):
        write_run(Path("multirun/runs", name), f"run.name={name}", f"model.depth={depth}", accuracy=accuracy)
    assert main(["compare", "first", "second"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10
    assert [line.split() for line in lines[:-1]] == [
        ["first", "second"],
        ["model.depth", "2", "3"],
        ["best/val/accuracy", "0.9000", "0.9500", "(+0.0500)"],
        ["best/val/loss", "0.1000", "0.0500", "(-0.0500)"],
        ["test/accuracy", "0.9000", "0.9500", "(+0.0500)"],
        ["test/loss", "0.1000", "0.0500", "(-0.0500)"],
        ["train_seconds", "8.0000", "8.0000", "(+0.0000)"],
    ]
    assert lines[-1].startswith("one run each does not show whether a difference is luck")


@pytest.mark.parametrize("paired", [True, False])
def test_two_groups_of_five_seeds_have_the_p_value_of_scipy(tmp_path: Path, paired: bool) -> None:
    group(tmp_path / "a", 2, SHALLOW)
    group(tmp_path / "b", 3, DEEP, first_seed=0 if paired else 5)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.names == ["depth=2 (5 runs)", "depth=3 (5 runs)"]
    expected = stats.ttest_rel(DEEP, SHALLOW) if paired else stats.ttest_ind(DEEP, SHALLOW, equal_var=False)
    metric = found.metrics["test/accuracy"]
    assert metric.p_values == [None, expected.pvalue]
    assert metric.paired is paired
    assert metric.means == [pytest.approx(np.mean(SHALLOW)), pytest.approx(np.mean(DEEP))]
    deviation, p_value = np.std(DEEP, ddof=1), f"{expected.pvalue:.2g}"
    assert metric.cell(1) == f"0.9482 ± {deviation:.4f} (+0.0292, p {p_value})"
    text = str(found)
    assert f"(+0.0292, p {p_value})" in text
    assert ("paired t-test by seed and fold; assumes" if paired else "Welch's t-test; assumes") in text
    assert "significant, p < 0.05: best/val/accuracy, best/val/loss, test/accuracy, test/loss" in text
    assert ("seed" in found.differences) is not paired
    # One collection, a folder of both, and single runs are the same comparison.
    assert compare(runs(tmp_path)[::-1]).metrics == compare(tmp_path).metrics == found.metrics
    assert compare(*map(Run, [run.path for run in runs(tmp_path)[::-1]])).metrics == found.metrics


def test_luck_is_not_taken_for_a_difference(tmp_path: Path) -> None:
    group(tmp_path, 2, SHALLOW)
    group(tmp_path, 3, SHALLOW[::-1])
    group(tmp_path, 4, [each + 0.2 for each in SHALLOW])
    text = str(compare(tmp_path))
    assert "significant, p < 0.025 (0.05 divided by 2 comparisons)" in text
    assert "test/accuracy of depth=4 (5 runs)" in text.splitlines()[-1]
    assert "depth=3" not in text.splitlines()[-1]


def test_folds_of_one_configuration_are_pairs(tmp_path: Path) -> None:
    for depth, accuracies in ((2, SHALLOW), (3, DEEP)):
        for fold, accuracy in enumerate(accuracies, start=1):
            keys = [f"model.depth={depth}", "dataset.folds=5", f"dataset.fold={fold}"]
            write_run(tmp_path / f"{depth}-{fold}", *keys, accuracy=accuracy, second=60 - fold)
    found = compare(tmp_path)
    assert found.differences == {"model.depth": ["2", "3"]}
    assert found.metrics["test/accuracy"].p_values[1] == stats.ttest_rel(DEEP, SHALLOW).pvalue


def test_groups_without_spread_have_no_p_value(tmp_path: Path) -> None:
    group(tmp_path, 2, SHALLOW)
    group(tmp_path, 3, SHALLOW)
    assert str(compare(tmp_path)).splitlines()[-1].startswith("no p value: the differences between the groups")


def test_pairs_are_matched_by_seed_whatever_the_order_of_the_runs(tmp_path: Path) -> None:
    group(tmp_path / "a", 2, SHALLOW)
    for seed, accuracy in enumerate(DEEP):
        write_run(tmp_path / f"b/{seed}", "model.depth=3", f"seed={seed}", accuracy=accuracy, second=50 - seed)
    found = compare(tmp_path / "a", tmp_path / "b").metrics["test/accuracy"]
    assert found.p_values[1] == stats.ttest_rel(DEEP, SHALLOW).pvalue


def test_runs_that_did_not_finish_are_left_out(tmp_path: Path) -> None:
    group(tmp_path / "a", 2, SHALLOW)
    group(tmp_path / "b", 3, DEEP)
    write_run(tmp_path / "b/failed", "model.depth=3", "seed=9", accuracy=0.1, status="FAILED")
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.metrics["test/accuracy"].values[1] == list(DEEP)
    assert "1 runs that did not finish are left out" in str(found)


def test_a_run_that_two_arguments_name_counts_once(tmp_path: Path) -> None:
    folder = group(tmp_path / "a", 2, SHALLOW)
    found = compare(folder / "2-0", folder)
    assert [len(each) for each in found.groups] == [1, 4]
    assert found.left_out == 0
    assert found.metrics["test/accuracy"].values == [[SHALLOW[0]], list(SHALLOW[1:])]
    with pytest.raises(UserError, match=r"^compare: expected other runs in argument 2, received none; leave it out\.$"):
        compare(folder, folder / "2-0")
    group(tmp_path / "b", 3, DEEP)
    assert [len(each) for each in compare(tmp_path, folder / "2-0").groups] == [5, 5]


def test_data_versions_and_machine_are_compared(tmp_path: Path) -> None:
    for name, digest in (("a", "d1"), ("b", "d2")):
        folder = write_run(tmp_path / name)
        (folder / "dataset.json").write_text(json.dumps({"digest": digest}))
    result = json.loads((tmp_path / "b/result.json").read_text())
    result |= {"versions": {"keras": "3.16.0"}, "hardware": {"name": "another processor"}}
    (tmp_path / "b/result.json").write_text(json.dumps(result))
    starts = json.loads((tmp_path / "b/provenance/starts.json").read_text())
    starts[0] |= {"git_commit": "e", "git_diff": "git-1.diff", "system": "macOS"}
    (tmp_path / "b/provenance/starts.json").write_text(json.dumps(starts))
    assert compare(tmp_path / "a", tmp_path / "b").differences == {
        "dataset digest": ["d1", "d2"],
        "keras": ["3.15.1", "3.16.0"],
        "git commit": ["c", "e"],
        "uncommitted changes": ["none", "git-1.diff"],
        "hardware": ["a processor", "another processor"],
        "system": ["Linux", "macOS"],
    }


def test_a_digest_that_follows_from_a_key_is_no_difference_of_its_own(tmp_path: Path) -> None:
    for name, limit in (("a", 100), ("b", 200)):
        folder = write_run(tmp_path / name, f"dataset.train_limit={limit}")
        (folder / "dataset.json").write_text(json.dumps({"digest": name}))
    assert compare(tmp_path / "a", tmp_path / "b").differences == {"dataset.train_limit": ["100", "200"]}


def test_runs_of_an_older_layout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["compare", str(REFERENCE / "sweep")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sweep/0", "sweep/1", "sweep/2"]
    assert lines[1].split() == ["model.embed_dim", "4", "8", "12"]
    # A key of today that the older run does not have is not a difference: it did what the default says.
    new = shutil.copytree(REFERENCE / "digits", tmp_path / "new")
    text = (new / "config.yaml").read_text()
    assert "tf32" not in text
    (new / "config.yaml").write_text(text.replace("trainer:\n", "trainer:\n  tf32: true\n"))
    assert "tf32" not in compare(REFERENCE / "digits", new).differences
    found = compare(REFERENCE / "digits", REFERENCE / "stopped")
    assert found.differences["state"] == ["FINISHED", "KILLED"]


def test_runs_of_one_name_are_numbered(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place / "mine", f"model.depth={place}") for place in ("2", "3")]
    found = compare(*folders, metrics="test/loss")
    assert (found.names, found.shown) == (["mine (1)", "mine (2)"], ["test/loss"])
    assert [*found._curves()["val/loss"]] == found.names


def test_page_and_picture_show_the_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group(tmp_path, 2, SHALLOW)
    group(tmp_path, 3, DEEP)
    picture, page = tmp_path / "curves.png", tmp_path / "page.html"
    assert main(["compare", str(tmp_path), "--picture", str(picture), "--html", str(page), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == {"model.depth": ["2", "3"]}
    assert [group["name"] for group in found["groups"]] == ["depth=2 (5 runs)", "depth=3 (5 runs)"]
    assert found["metrics"]["test/accuracy"]["p_values"][1] == stats.ttest_rel(DEEP, SHALLOW).pvalue
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color in ((31, 119, 180), (255, 127, 14)):  # the legend has one line per group
        assert (pixels == color).all(axis=1).any()
    text = page.read_text()
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    titles = {element.text for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"val/accuracy", "val/loss", "train/loss", "depth=2 (5 runs)", "depth=3 (5 runs)"} <= titles
    assert "<td>model.depth</td><td>2</td><td>3</td>" in text
    assert str(tmp_path / "2-0") in text


def test_metrics_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group(tmp_path, 2, SHALLOW[:2])
    assert main(["compare", str(tmp_path), "--metric", "model_parameters", "--metric", "macs"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["2-0", "2-1"]  # equal but for the seed: each is a group
    assert lines[1:4] == [["seed", "0", "1"], ["model_parameters", "7.0000", "7.0000", "(+0.0000)"], *[lines[3]]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one"], "expected two runs or more, received 1"),
        (["one", "nowhere"], "nowhere: expected a folder of runs"),
        (["one", "empty"], "empty: expected runs, received none"),
        (["one", "two", "--picture", "a.xyz"], "expected a name that ends in .png"),
        (["one", "two", "--metric", "test/acuracy"], "Did you mean test/accuracy?"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "one")
    write_run(tmp_path / "two")
    (tmp_path / "empty").mkdir()
    assert main(["compare", *arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert len(printed.err.splitlines()) == 1
    with pytest.raises(UserError, match="compare: expected two runs"):
        compare("one")
