"""The notebooks run as a user has them: the package from its wheel, in an environment of its own."""

import json
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel; the packages that it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("fresh")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    found = folder / "venv/bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(found), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    # A line of a .pth file adds a folder, but not the .pth files in it, such as that of an editable tnt-exp.
    (packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = [str(found), "-E", "-c", "import tnt_exp; print(tnt_exp.__file__)"]
    assert str(packages) in subprocess.run(where, cwd=folder, capture_output=True, text=True, check=True).stdout
    return found


@pytest.mark.notebooks
@pytest.mark.timeout(900)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_runs_from_a_wheel(
    notebook: Path, python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [str(python), str(ROOT / "docs/execute_notebooks.py"), "--output", str(tmp_path), notebook.stem]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    check(tmp_path / notebook.name)
    assert kinds(tmp_path / notebook.name) == kinds(notebook)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_has_its_outputs(notebook: Path) -> None:
    check(notebook)
    assert notebook.stat().st_size < 200_000


def code_cells(file: Path) -> list[dict]:
    return [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]


def kinds(file: Path) -> list[list[str]]:
    """Of each cell the kinds of its outputs, and of what they show."""
    return [
        [" ".join([output["output_type"], *sorted(output.get("data", {}))]) for output in cell["outputs"]]
        for cell in code_cells(file)
    ]


def check(file: Path) -> None:
    """Every cell was executed without an error; a bar is one output that replaces itself, and no path is shown."""
    cells = code_cells(file)
    assert all(cell["execution_count"] for cell in cells)
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    text = json.dumps([output for cell in cells for output in cell["outputs"] if output["output_type"] != "stream"])
    assert re.findall(r"/tmp/|/home/|/Users/", text) == []
    for cell in cells:
        assert "error" not in [output["output_type"] for output in cell["outputs"]]
        bars = [output for output in cell["outputs"] if "<progress" in json.dumps(output)]
        source = "".join(cell["source"])
        assert len(bars) == source.count("tnt_exp.train(") + source.count("tnt_exp.sweep(")
        assert "\\r" not in json.dumps(bars)
