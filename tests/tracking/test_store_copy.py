"""Runs are copied to another store whole, once, and on after an interruption."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from tracking.store_content import content, fill_store

from tnt_exp.cli import main
from tnt_exp.tracking.client import init_sqlite_store
from tnt_exp.tracking.store_copy import copy_runs


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    init_sqlite_store(uri)
    fill_store(uri, folder)
    return uri


def ended(uri: str) -> dict[str, Any]:
    """What is to be copied: all but the sweep in progress."""
    return {key: run for key, run in content(uri).items() if not run["info"][0].startswith("open")}


def test_a_copy_is_equal_is_made_once_and_finds_its_way_back(source: str, uri: str, tmp_path: Path) -> None:
    before, lines = content(source), list[str]()
    count = copy_runs(source, uri, lines.append)
    assert (count.copied, count.present, count.in_progress, count.failed, count.error) == (5, 0, 3, 0, "")
    assert len(lines) == 5
    copied = content(uri)
    assert copied == ended(source)
    assert content(source) == before
    count = copy_runs(source, uri, lines.append)
    assert (count.copied, count.present) == (0, 5)
    assert content(uri) == copied
    back = copy_runs(uri, source, lines.append)
    assert (back.copied, back.present) == (0, 5)
    assert content(source) == before
    (tmp_path / "third").mkdir()
    third = f"sqlite:///{tmp_path / 'third/mlflow.db'}"
    assert copy_runs(uri, third, lines.append).copied == 5
    assert content(third) == copied
    assert copy_runs(source, third, lines.append).copied == 0


def test_what_a_run_gains_later_is_sent_and_a_deleted_copy_stays_deleted(uri: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = f"sqlite:///{tmp_path / 'other/mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    runs = [client.create_run("0", run_name=name).info.run_id for name in ("kept", "dropped")]
    for run in runs:
        client.log_metric(run, "val/accuracy", 0.5, timestamp=1)
        client.set_terminated(run)
    assert copy_runs(uri, other, print).copied == 2
    there = mlflow.MlflowClient(other)
    copies = {run.info.run_name: run.info.run_id for run in there.search_runs(["0"])}
    there.delete_run(copies["dropped"])
    client.log_metric(runs[0], "eval/accuracy", 0.25, timestamp=2)
    client.log_text(runs[0], "more", "evaluation/more.txt")
    count = copy_runs(uri, other, print)
    assert (count.copied, count.present) == (1, 1)
    assert content(other) == {runs[0]: content(uri)[runs[0]]}
    before = content(uri)
    client.set_terminated(runs[0], "FAILED")  # it went on where it began: the older copy does not undo that
    changed = content(uri)
    assert changed != before
    assert copy_runs(other, uri, print).copied == 0
    assert content(uri) == changed
    assert copies["kept"] in [run.info.run_id for run in there.search_runs(["0"])]


class KilledError(Exception):
    """Nothing catches it: what it interrupts was killed."""


WRITES = (
    "create_run",
    "log_batch",
    "log_inputs",
    "log_artifacts",
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "log_outputs",
    "set_terminated",
)


def test_killed_after_each_write_it_continues_without_doubles(
    source: str, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0
    for name in WRITES:
        original = getattr(mlflow.MlflowClient, name)

        def write(self: Any, *arguments: Any, original: Any = original, **options: Any) -> Any:
            nonlocal left
            done = original(self, *arguments, **options)
            left -= 1
            if left == 0:
                raise KilledError
            return done

        monkeypatch.setattr(mlflow.MlflowClient, name, write)
    kills = 0
    while True:
        left = 2 * kills + 1  # each process lives a little longer
        try:
            count = copy_runs(source, uri, lambda line: None)
            break
        except KilledError:
            kills += 1
    assert kills > 4
    assert count.failed == 0
    left = 0
    assert content(uri) == ended(source)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "mlflow.db"], ["--to", "sqlite:///mlflow.db"]),
        (["--to", "sqlite:///mlflow.db"], ["--to", "another store", "the same"]),
        (["--to", "ftp://host"], ["--to", "ftp://"]),
        (["--to", "sqlite:///other.db", "multirun"], ["--to", "no folders", "multirun"]),
        (
            ["--to", "sqlite:///other.db", "--uri", "sqlite:///none.db"],
            ["none.db", "expected a tracking store", "none"],
        ),
        (["--to", "sqlite:///other.db", "--uri", "none.db"], ["--uri", "sqlite:///none.db"]),
        (["--uri", "sqlite:///mlflow.db"], ["--uri", "expected with --to=URI"]),
        pytest.param(
            ["--to", "postgresql+psycopg2://x:secret@127.0.0.1:1/y"],
            ["expected a tracking store", "refused"],
            marks=pytest.mark.postgresql,  # its driver
        ),
    ],
)
def test_bad_addresses_are_one_line(
    arguments: list[str],
    words: list[str],
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["sync", *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "secret" not in error
    for word in words:
        assert word in error
