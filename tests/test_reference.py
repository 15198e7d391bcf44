"""Nothing changes the numbers: runs made anew equal those kept in tests/reference, and the kept ones can be used.

On the kind of machine on which the reference was recorded every bit is compared, by SHA-256; elsewhere the kept
values, within a relative 1e-4. The id of each test says which: `bits` or `values`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference.runs import (
    COMMANDS,
    FOLDER,
    HASHES,
    POINTS,
    STOPPED,
    arrays,
    curve,
    hashes,
    machine,
    metrics,
    position,
    predictions,
    run_folder,
    tnt_exp,
    write_digits,
    write_photos,
)

RECORDED = json.loads(HASHES.read_text())
TOLERANCE = 1e-4


def _is_machine_of_reference() -> bool:
    here, then = machine(), RECORDED["machine"]
    packages = here.pop("packages").items() <= then["packages"].items()  # JAX need not be installed
    return packages and here == {key: value for key, value in then.items() if key != "packages"}


EXACT = _is_machine_of_reference()
compared = pytest.mark.parametrize("exact", [pytest.param(EXACT, id="bits" if EXACT else "values")])


def assert_unchanged(run: Path, name: str, exact: bool) -> None:
    """Compare a new run folder with the kept one of a name."""
    if exact:
        assert hashes(run) == RECORDED["runs"][name]
        return
    kept = FOLDER / name
    assert position(run) == position(kept)
    assert_close(metrics(run), metrics(kept))
    found, then = curve(run), curve(kept)
    assert [list(row) for row in found] == [list(row) for row in then]
    for row, other in zip(found, then, strict=True):
        assert_close({key: float(row[key]) for key in row}, {key: float(other[key]) for key in other})
    others = arrays(kept)
    for key, values in arrays(run).items():
        other = others.pop(key)
        assert (values.dtype, values.shape) == (other.dtype, other.shape), key
        if np.issubdtype(values.dtype, np.integer):
            np.testing.assert_array_equal(values, other, key)
        else:
            largest = np.abs(other).max(initial=0)
            np.testing.assert_allclose(values, other, TOLERANCE, TOLERANCE * largest, err_msg=key)
    assert not others


def assert_close(found: dict[str, float], then: dict[str, float], exact: bool = False) -> None:
    assert found == (then if exact else pytest.approx(then, rel=TOLERANCE))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder as the commands left it when the reference was recorded."""
    cwd = tmp_path_factory.mktemp("kept")
    write_photos(cwd)
    write_digits(cwd)
    for name in ("digits", "photos", "sweep"):
        shutil.copytree(FOLDER / name, run_folder(cwd, name))
    return cwd


@compared
@pytest.mark.parametrize("name", ["digits", "photos", pytest.param("jax", marks=pytest.mark.jax)])
def test_run_made_anew_is_the_kept_one(name: str, exact: bool, tmp_path: Path) -> None:
    write_photos(tmp_path)
    tnt_exp(tmp_path, *COMMANDS[name])
    assert_unchanged(run_folder(tmp_path, name), name, exact)


@compared
def test_kept_run_that_was_stopped_continues_to_the_same_end(exact: bool, tmp_path: Path) -> None:
    """It ends as the digits run that was never stopped."""
    run = run_folder(tmp_path, "digits")
    shutil.copytree(FOLDER / STOPPED, run)
    assert position(run)["step"] < position(FOLDER / "digits")["step"]
    tnt_exp(tmp_path, *COMMANDS["digits"])
    assert curve(run)[0] == curve(FOLDER / STOPPED)[0], "the run began anew"
    assert_unchanged(run, "digits", exact)


@compared
def test_sweep_made_anew_is_the_kept_one(exact: bool, tmp_path: Path) -> None:
    tnt_exp(tmp_path, *COMMANDS["sweep"])
    for name in POINTS:
        assert_unchanged(run_folder(tmp_path, name), name, exact)


@pytest.mark.parametrize("name", ["digits", "sweep"])
def test_kept_run_and_sweep_that_finished_are_not_made_again(kept: Path, name: str) -> None:
    folder = run_folder(kept, name)
    before = _contents(folder)
    assert "finished" in tnt_exp(kept, *COMMANDS[name])
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*.*") if file.name in ("result.json", "metrics.csv")}


@compared
@pytest.mark.parametrize("name", ["digits", "photos"])
def test_kept_model_is_evaluated(kept: Path, name: str, exact: bool) -> None:
    report: dict[str, Any] = json.loads(tnt_exp(kept, "evaluate", f"multirun/runs/{name}", "--json"))
    then = {key.removeprefix("test/"): value for key, value in metrics(FOLDER / name).items() if key[:5] == "test/"}
    found = {key.removeprefix("eval/"): value for key, value in report["metrics"].items()}
    assert_close({key: found[key] for key in then}, then, exact)


@compared
def test_kept_model_predicts(kept: Path, exact: bool) -> None:
    command = ("predict", "multirun/runs/digits", "files", "--top", "10", "--json")
    few, found = (predictions(tnt_exp(kept, *command, *more)) for more in ([], ["--batch-size", "8"]))
    assert few.keys() == found.keys() == RECORDED["predictions"].keys()
    for file, then in RECORDED["predictions"].items():
        assert_close(found[file], then, exact)  # of a full batch, for which a graph is traced
        assert few[file] == pytest.approx(then, rel=1e-6)


def test_kept_sweep_has_its_status_and_its_report(kept: Path) -> None:
    objectives = [f"{metrics(FOLDER / name)['val/accuracy']:.4f}" for name in POINTS]
    rows = [line.split()[:4] for line in tnt_exp(kept, "sweep", "status", "sweep").splitlines()]
    for job, (width, objective) in enumerate(zip((4, 8, 12), objectives, strict=True)):
        assert [str(job), str(width), "finished", objective] in rows
    page = Path(tnt_exp(kept, "report", "sweep").strip()).read_text()
    assert all(text in page for text in ("model.embed_dim", *objectives))
