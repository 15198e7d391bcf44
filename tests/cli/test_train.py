"""Slips on the command line of `tnt-exp train`: one line each, exit code 2, and nothing is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import preloaded
import pytest


def tnt(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run(["train", *arguments], folder, os.environ | environment)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs=3"], "Write trainer.epochs=3."),
        (["--batch-size", "64"], "Write trainer.batch_size="),
        (["--lr", "0.1"], "Write optimizer.learning_rate="),
        (["--nothing"], "KEY=VALUE, without dashes"),
        (["optimizer.lr=1e-3"], "Did you mean optimizer.learning_rate?"),
        (["trainer.lr=1e-3"], "Did you mean optimizer.learning_rate?"),
        (["trainer.learning_rate=1e-3"], "Did you mean optimizer.learning_rate?"),
        (["lr=1e-3"], "Did you mean optimizer.learning_rate?"),
        (["wd=0.1"], "Did you mean optimizer.weight_decay?"),
        (["optimizer.weight-decay=0.1"], "Did you mean optimizer.weight_decay?"),
        (["optimizer.max_grad_norm=1"], "Did you mean optimizer.clip_norm?"),
        (["batch_size=64"], "Did you mean trainer.batch_size?"),
        (["dataset.batch_size=64"], "Did you mean trainer.batch_size?"),
        (["epochs=5"], "Did you mean trainer.epochs?"),
        (["trainer.max_epochs=5"], "Did you mean trainer.epochs?"),
        (["depth=8"], "Did you mean model.depth?"),
        (["model.num_layers=8"], "Did you mean model.depth?"),
        (["model.hidden_size=64"], "Did you mean model.embed_dim?"),
        (["model.heads=4"], "Did you mean model.num_heads?"),
        (["model.patch=4"], "Did you mean model.patch_size?"),
        (["model.dropout=0.1"], "Did you mean model.mlp_dropout?"),
        (["model.pretrained=w.safetensors"], "Did you mean model.weights?"),
        (["dataset.dir=photos"], "Did you mean dataset.path?"),
        (["data_dir=photos"], "Did you mean dataset.path?"),
        (["dataset.val_split=0.1"], "Did you mean dataset.validation_fraction?"),
        (["augmentation.flip=0.5"], "Did you mean augmentation.horizontal_flip?"),
        (["augment=randaugment"], "Did you mean augmentation?"),
        (["scheduler=cosine"], "Did you mean schedule?"),
        (["schedule.warmup=3"], "Did you mean schedule.warmup_epochs?"),
        (["trainer.early_stopping=5"], "Did you mean trainer.patience?"),
        (["trainer.fp16=true"], "Did you mean trainer.precision?"),
        (["tracking.tracking_uri=sqlite:///x.db"], "Did you mean tracking.uri?"),
        (["name=first"], "Did you mean run.name?"),
        (["random_seed=1"], "Did you mean seed?"),
        (["optimizer=adam"], "Did you mean adamw?"),
        (["dataset=cifar"], "Did you mean cifar10?"),
        (["model.depth", "8"], "KEY=VALUE, as in model.depth=8, received no = sign"),
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
