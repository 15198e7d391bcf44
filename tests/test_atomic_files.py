"""Files are whole or absent; a lock has one owner and dies with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tnt_exp import atomic_files
from tnt_exp.errors import UserError
from tnt_exp.formatting import as_number


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    atomic_files.atomic_write(file, "old")
    with pytest.raises(FileExistsError), atomic_files.atomic_path(file) as part:
        [part.write_text("ne"), part.mkdir()]
    assert file.read_text() == "old"
    atomic_files.atomic_write(file, b"new")
    assert file.read_text() == "new"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("old", "new"):
        with atomic_files.atomic_path(folder) as part:
            part.mkdir()
            (part / content).write_text(content)
    with pytest.raises(FileExistsError), atomic_files.atomic_path(folder) as part:
        [part.mkdir() for _ in range(2)]
    assert [file.name for file in folder.iterdir()] == ["new"]
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]


def test_what_a_killed_writer_left_is_found_and_does_not_matter(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\nfrom tnt_exp import atomic_files\n"
        "with atomic_files.atomic_path(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "file")], check=False)
    assert [left.name for left in atomic_files.partial_files(tmp_path)] == [".part.file"]
    atomic_files.atomic_write_json(tmp_path / "file", {"a": 1})
    assert atomic_files.read_json(tmp_path / "file") == {"a": 1}
    assert atomic_files.partial_files(tmp_path) == []
    with pytest.raises(UserError, match=r"received a damaged file \(dict instead of list\)"):
        atomic_files.read_json(tmp_path / "file", kind=list)
    (tmp_path / "file").write_text("null")
    assert atomic_files.read_json(tmp_path / "file", skip=True) is None


def test_a_lock_has_one_owner_and_dies_with_it(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    code = (
        "import sys, pathlib, time\nfrom tnt_exp import atomic_files\n"
        "held = atomic_files.acquire_lock(pathlib.Path(sys.argv[1]))\nprint(held is not None, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "True\n"
        assert atomic_files.acquire_lock(file) is None
        assert atomic_files.lock_owner(file).startswith(f"process {process.pid} on ")
        process.kill()
        process.wait()
    assert atomic_files.lock_owner(file).startswith(f"process {process.pid} on ")  # it did not let go
    held = atomic_files.acquire_lock(file)
    assert held is not None
    atomic_files.release_lock(held)
    assert atomic_files.lock_owner(file) == ""


def test_a_lock_on_a_full_disk_is_released() -> None:
    """The name of the owner cannot be written; that must not hide the error that ended the run."""
    held = atomic_files.acquire_lock(Path("/dev/full"))
    assert held is not None
    atomic_files.release_lock(held)
    assert held.closed


def test_a_number_is_finite_or_none() -> None:
    typed: list[str | float | None] = ["1e3", "x", "inf", None, 10**400]
    assert list(map(as_number, typed)) == [1000.0, None, None, None, None]
