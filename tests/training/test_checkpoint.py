"""Checkpoints: whole or absent, whatever happens to their bytes."""

import json
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.training.checkpoint import Checkpoint, CheckpointStore, all_finite


def checkpoint(step: int) -> Checkpoint:
    arrays = {"a/0000": np.full((2, 3), step, np.float32), "b/0000": np.array(step, np.int64)}
    return Checkpoint(step, arrays, {"step": step, "sums": [0.1, 1 / 3]})


def written(folder: Path, *steps: int, keep: int = 9) -> CheckpointStore:
    checkpoints = CheckpointStore(folder, keep)
    for step in steps:
        checkpoints.save(checkpoint(step))
    checkpoints.wait()
    return checkpoints


def test_newest_comes_back_to_the_bit(tmp_path: Path) -> None:
    found = written(tmp_path, 3, 12, 7).newest()
    assert found is not None
    assert found.step == 12
    assert found.values == checkpoint(12).values
    for name, value in checkpoint(12).arrays.items():
        np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays[name].dtype == value.dtype


def test_no_checkpoint_in_an_empty_or_missing_folder(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path, 1).newest() is None
    assert CheckpointStore(tmp_path / "missing", 1).newest() is None


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    written(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        f"step-{step:08d}.{kind}" for step in (3, 4) for kind in ("json", "safetensors")
    ]


def test_what_the_caller_changes_later_is_not_written(tmp_path: Path) -> None:
    checkpoints, numbers = CheckpointStore(tmp_path, 1), {"rows": [1]}
    checkpoints.save(Checkpoint(1, {"a": np.zeros(10_000_000, np.float32)}, numbers))
    numbers["rows"].append(2)
    checkpoints.wait()
    found = checkpoints.newest()
    assert found is not None
    assert found.values == {"rows": [1]}


def test_failed_write_is_reported_and_leaves_the_former(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # what is larger cannot be written, as on a full disk
    try:
        checkpoints.save(checkpoint(2))
        with pytest.raises(OSError, match="File too large"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in tmp_path.iterdir() if "2" in file.name] == []
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_damage_ends_in_the_checkpoint_before(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = written(folder, 1, 2)
        file = folder / data.draw(st.sampled_from(["step-00000002.json", "step-00000002.safetensors"]))
        content = file.read_bytes()
        kind = data.draw(st.sampled_from(["truncate", "flip", "empty", "remove", "garbage"]))
        place = data.draw(st.integers(0, len(content) - 1))
        if kind == "remove":
            file.unlink()
        elif kind == "flip":
            bit = 1 << data.draw(st.integers(0, 7))
            file.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        else:
            file.write_bytes({"truncate": content[:place], "empty": b""}.get(kind, data.draw(st.binary(max_size=99))))
        found = checkpoints.newest()
        assert found is not None
        # The JSON's own frame has bytes that say nothing (a space between two keys): then it is still whole.
        assert found.step == 1 or (file.suffix == ".json" and found.values == checkpoint(2).values)
        assert found.values == checkpoint(found.step).values
        np.testing.assert_array_equal(found.arrays["a/0000"], checkpoint(found.step).arrays["a/0000"])


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_damage_to_any_of_the_files_never_gives_half_a_checkpoint(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = written(folder, 1, 2, 3)
        files = sorted(folder.iterdir())
        sizes = {file: file.stat().st_size for file in files}
        for file in data.draw(st.lists(st.sampled_from(files), unique=True, max_size=len(files))):
            size = file.stat().st_size
            file.write_bytes(file.read_bytes()[: data.draw(st.integers(0, size - 2))])
        cut = {file.stem for file in files if file.stat().st_size < sizes[file]}
        whole = [step for step in (1, 2, 3) if f"step-{step:08d}" not in cut]
        found = checkpoints.newest()
        assert (found.step if found else None) == max(whole, default=None)


def test_at_periods_are_kept_beside_the_last(tmp_path: Path) -> None:
    checkpoints = CheckpointStore(tmp_path, 2, keep_period=10)
    for step in (0, 10, 13, 16, 19):
        checkpoints.save(checkpoint(step))
    checkpoints.wait()
    assert sorted(file.stem for file in tmp_path.glob("*.json")) == ["step-00000010", "step-00000016", "step-00000019"]
    at_period = checkpoints.newest(at_period=True)
    assert at_period is not None
    assert at_period.step == 10
    checkpoints.delete_after(10)
    assert [file.stem for file in tmp_path.glob("*.json")] == ["step-00000010"]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("kind", ["float32", "float16", "float64"])
def test_what_is_not_finite_is_seen(value: float, kind: str) -> None:
    array = np.linspace(-5, 5, 999, dtype=kind)
    assert all_finite(array)
    array[500] = value
    assert not all_finite(array)
    assert all_finite(np.zeros(0))
    assert all_finite(np.array([2**31 - 1], np.uint32))


def test_manifest_without_its_numbers_is_skipped(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1, 2)
    (tmp_path / "step-00000002.json").write_text(json.dumps({"manifest": "{}"}))
    found = checkpoints.newest()
    assert found is not None
    assert found.step == 1
