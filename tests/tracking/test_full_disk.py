"""A disk that is full when the tracking store is created: one line, exit code 1, nothing half-made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# SQLite answers as on a full disk once a database has this many pages.
_LIMIT = """
from sqlalchemy import event
from sqlalchemy.engine import Engine
@event.listens_for(Engine, "connect")
def limit(connection, record):
    connection.execute("PRAGMA max_page_count=40")
"""


@pytest.mark.parametrize("command", [["run.name=run"], ["-m", "seed=0,1"]], ids=["run", "sweep"])
def test_a_store_that_does_not_fit_ends_with_one_line(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(_LIMIT)
    done = subprocess.run(
        [sys.executable, "-m", "tnt_exp", "train", "model=tiny", "trainer.epochs=1", *command],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert output.count("no space left on the disk") == 1
    assert "database or disk is full" in output
    assert "Traceback" not in output
    assert not list(tmp_path.glob("mlflow.db*part*"))
    assert not (tmp_path / "mlflow.db").exists()
