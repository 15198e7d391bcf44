"""The command line as a user meets it: exit codes, one message, nothing slow imported."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished_runs.fake_runs import write_run

from tnt_exp.cli import VERBS, main

_PROBE = """
import sys
from tnt_exp.cli import VERBS, main
code = main(sys.argv[1:])
names = {"tensorflow", "keras", "jax", "torch", "mlflow", "matplotlib", "optuna", "PIL", "scipy"}
slow = sorted({name.partition(".")[0] for name in sys.modules} & names)
print("slow:", slow)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["model.depht=8"], "model.depth"),
        (["model.depth=eight"], "model.depth"),
        (["model=keras_exmaple"], "keras_example"),
        (["model.patch_size=7"], "model.patch_size"),
        (["dataset.path=/nowhere", "dataset=cifar100"], "/nowhere"),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate"),
        (["+model.foo=1"], "model.foo"),
        (["experiment=nope"], "experiment"),
        (["model.depth="], "model.depth"),
        (["model.weights=/nowhere.safetensors"], "/nowhere.safetensors"),
        (["model.weights=cifar100", "model.depth=1"], "model.weights=cifar100: expected model.depth=6, "),
        (["-m", "model.depth=2,x"], "model.depth"),
        (["-m", "model.embed_dim=32,33"], "model.embed_dim"),
        (["--experimental-rerun=x.pkl"], "--experimental-rerun"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(arguments: list[str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert key in captured.err
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list", "tnt"], 2),
        (["compare", "0" * 32, "1" * 32], 2),
        (["resume", "0" * 32], 2),
        (["doctor"], 1),
        (["ui"], 0),
    ],
    ids=str,
)
def test_a_store_that_is_down_is_reported_at_once(
    arguments: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = time.monotonic()
    assert main([*arguments, "--uri", "http://127.0.0.1:1"]) == code
    assert time.monotonic() - begin < 30  # MLflow's own client would repeat for minutes
    assert "http://127.0.0.1:1" in "".join(capsys.readouterr())


def test_a_lack_of_memory_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnt_exp.cli.list.runs", lambda *arguments, **options: bytes(2**60))
    assert main(["list"]) == 1
    assert capsys.readouterr().err.startswith("tnt-exp: out of memory on the device (MemoryError")


def test_letters_that_the_terminal_lacks_are_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "größe")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    assert main(["list", str(tmp_path)]) == 0
    sys.stdout.flush()
    assert b"gr\\xf6\\xdfe" in written.getvalue()


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"train"}))
@pytest.mark.parametrize("arguments", [[], ["--no-such-option"], ["a", "b", "--no-such-option"]], ids=repr)
def test_arguments_that_a_verb_does_not_take_are_one_line(
    verb: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if not arguments and verb in ("doctor", "list", "models", "schema", "sync", "ui"):
        return  # needs none
    assert main([verb, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"tnt-exp: {verb}: ")
    assert captured.err.count(f"`tnt-exp {verb} --help`") == 1
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        ([], 0),
        (["--version"], 0),
        (["trian"], 2),
        (["train", "--cfg", "job"], 0),
        (["train", "--help"], 0),
        (["train", "model.depht=8"], 2),
        (["models"], 0),
    ],
)
def test_nothing_slow_is_imported_before_training(arguments: list[str], code: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    if "--help" in arguments and "train" in arguments:  # Hydra ends the process itself
        assert done.returncode == code
        return
    assert done.returncode == code, done.stderr
    assert "slow: []" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_ui_creates_no_store_under_a_misspelt_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ui", "--uri", "sqlite:///mlfow.db"]) == 2
    store = tmp_path / "mlfow.db"
    answer = f"tnt-exp: --uri: expected a tracking store, found none in sqlite:///{store}. Correct it.\n"
    assert capsys.readouterr().err == answer
    assert list(tmp_path.iterdir()) == []


def test_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "Did you mean train?" in capsys.readouterr().err
    assert main(["model.depth=3"]) == 2
    assert "Did you mean: tnt-exp train model.depth=3?" in capsys.readouterr().err


def test_a_misspelt_path_is_answered_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "multirun/runs/clothes", "run.name=clothes")
    (tmp_path / "photos").mkdir()
    (tmp_path / "new.jpg").touch()
    monkeypatch.chdir(tmp_path)
    for arguments, answer in [
        (["train", "experiment=photos", "dataset.path=photo"], "Did you mean photos?"),
        (["train", "experiment=photos", "dataset.path=there"], "Correct it."),
        (["predict", "cifar100", "news.jpg"], "Did you mean new.jpg?"),
        (["predict", "cloths", "new.jpg"], "Did you mean multirun/runs/clothes?"),
        (["evaluate", "multirun/runs/cloth"], "Did you mean multirun/runs/clothes?"),
        (["compare", "clothes", "cloths"], "Did you mean multirun/runs/clothes?"),
        (["export", "clothes", "--format", "litert"], "Keys have no dashes: format=VALUE"),
        (["evaluate", "clothes", "--dataset.path", "photos"], "Keys have no dashes: dataset.path=VALUE"),
    ]:
        assert main(arguments) == 2, arguments
        assert answer in capsys.readouterr().err, arguments


def test_help_of_train_shows_groups_and_keys() -> None:
    done = subprocess.run([sys.executable, "-m", "tnt_exp", "train", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("keras_example", "label_smoothing", "tnt-exp train -m"):
        assert word in done.stdout


def test_windows_is_refused_in_one_line_by_a_fresh_process() -> None:
    # Neither module is there, and signal has no SIGUSR1: what a Python on Windows lacks.
    program = """
import os, signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
del signal.SIGUSR1
from tnt_exp import cli
cli.os.name = "nt"
sys.exit(cli.main(["train"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "tnt-exp: expected Linux or macOS (locks, signals, forks), received Windows. Use WSL 2.\n"


def test_doctor_describes_a_machine_without_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tnt_exp.cli import doctor

    short = ("model=tiny", "trainer.epochs=1", "dataset.train_limit=200", "tracking=off", "run.name=report")
    monkeypatch.setattr(doctor, "_SHORT_TRAINING", short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_SECRET_TOKEN", "hidden-token")
    assert main(["doctor", "--report", "--uri", "postgresql://user:hidden-password@host/db"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    expected = ["tnt-exp", "packages", "system", "variables", "store", "disk", "device", "training"]
    assert list(lines) == expected
    assert lines["store"] == "postgresql"
    assert "test accuracy" in lines["training"]
    assert "hidden" not in str(lines)
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setattr(doctor, "_SHORT_TRAINING", ("model.depth=0", "tracking=off", "run.name=report"))
    assert main(["doctor", "--report"]) == 1
    assert "failed with exit code 2:\ntnt-exp: model.depth: expected" in capsys.readouterr().out
