"""Slips on the command line of `tnt-exp train`: one line each, exit code 2, and nothing is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def tnt(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tnt_exp", "train", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs=3"], "Write trainer.epochs=3."),
        (["--batch-size", "64"], "Write trainer.batch_size="),
        (["--nothing"], "KEY=VALUE, without dashes"),
        (["-m", "hydra/sweeper=optuna", "seed=0,1"], "sweep=bayes"),
        (["-m", "hydra/launcher=joblib", "seed=0,1"], "launcher.slots=N"),
        (["hydra.job.chdir=true"], "hydra.job.chdir=true: expected false"),
        (["--config-dir", "nowhere"], "--config-dir=nowhere"),
        (["-m", "--config-dir", "nowhere", "seed=0,1"], "--config-dir=nowhere"),
        (["--cfg", "job", "--config-dir", "nowhere"], "--config-dir=nowhere"),
        (["launcher.slots=2"], "expected the flag -m"),
        (["--cfg", "job", "hydra/launcher=joblib"], "launcher.slots=N"),
        (["-m", "--cfg", "job"], "expected without --cfg"),
        (["-sc"], "install=SHELL"),
        (["-sc", "install=csh"], "install=SHELL"),
    ],
)
def test_a_slip_gets_the_line_that_leads_on(tmp_path: Path, arguments: list[str], expected: str) -> None:
    done = tnt(tmp_path, *arguments, "model=tiny", "tracking=off")
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("tnt-exp: ")
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    done = tnt(tmp_path, "tracking.uri=ftp://user:geheim@host", "optimizer=[1")
    assert done.returncode == 2
    assert "geheim" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["model=tiny", "tracking=off", "-m", "seed=0,1", "--dry-run"],
        ["tracking=off", "--cfg", "job", "model.depth=3"],
    ],
)
def test_flags_may_stand_anywhere(tmp_path: Path, arguments: list[str]) -> None:
    assert tnt(tmp_path, *arguments).returncode == 0


def test_help_explains_each_key_and_fits(tmp_path: Path) -> None:
    text = tnt(tmp_path, "--help", COLUMNS="80").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "base_" not in text
    assert "images per step; a whole number" in " ".join(text.split())


def test_completion_is_hydras(tmp_path: Path) -> None:
    script = tnt(tmp_path, "-sc", "install=bash").stdout
    assert "complete -o nospace -o default -F hydra_bash_completion tnt-exp" in script
    line = "tnt-exp train model=ti"
    asked = subprocess.run(
        [sys.executable, "-m", "tnt_exp", "-sc", "query=bash"],
        cwd=tmp_path,
        env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "model=tiny" in asked.stdout
