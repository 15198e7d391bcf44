"""The Python interface: the same checks as the command line, and processes of their own."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from finished_runs.fake_runs import write_run

import tnt_exp
from tnt_exp import api
from tnt_exp.cli import main

FAKE_TRAIN = Path(__file__).parent / "sweep/fake_train.py"

# A command of `tnt-exp` that trains nothing: what it writes to the run folder is in FAKE, by the verb.
_FAKE = """
import json, os, signal, sys, time
from pathlib import Path
verb, *arguments = sys.argv[1:]
folder = arguments[0] if verb == "resume" else next(a for a in arguments if "hydra.run.dir" in a)[15:-1]
folder = Path(folder)
(folder / "plots").mkdir(parents=True, exist_ok=True)
(folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))
print("epoch 1/2", flush=True)
exec(os.environ["FAKE"])
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "_CHILD", _FAKE)
    config = json.dumps({"run": {"name": None}, "seed": 0})
    monkeypatch.setenv("FAKE", f"(folder / 'config.yaml').write_text({config!r})")


def behave(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setenv("FAKE", f"{os.environ['FAKE']}\n{program}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.depht=8"],
        ["model.depth=eight"],
        ["model.patch_size=7"],
        ["dataset.path=/nowhere", "dataset=cifar100"],
        ["launcher.slots=2"],
        ["experiment=nope"],
        ["model.depth"],
    ],
)
def test_compose_says_what_the_command_line_says(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *overrides]) == 2
    with pytest.raises(tnt_exp.UserError) as error:
        tnt_exp.compose(overrides)
    assert f"tnt-exp: {error.value}\n" == capsys.readouterr().err


def test_a_configuration_becomes_the_overrides_that_make_it(tmp_path: Path) -> None:
    awkward = ["run.name=1.10", "dataset=npz", "dataset.path=it's \\ (2), [3].npz", "optimizer=lion", "seed=3"]
    for overrides in (
        awkward,
        *([f"experiment={name}"] for name in ("cifar100_keras_example", "cifar100_15min", "photos")),
    ):
        config = api.compose_config(overrides)
        assert api.compose_config(api.to_overrides(config)) == config
    assert api.to_overrides(api.compose_config(["seed=3", "trainer.epochs=7"])) == ["trainer.epochs=7", "seed=3"]
    config = api.compose_config(["trainer.class_weights={a:2,b:0.5}"])
    assert api.compose_config(api.to_overrides(config)) == config
    names = [
        "Kätzchen",
        "it's",
        'a, "b"',
        "007",
        "yes",
        "null",
        "a: b",
        "a:2",
        "{a}",
        "#",
        "",
        " a ",
        "\\",
        "a\nb",
        "🙂",
    ]
    config.trainer.class_weights = {name: np.float64(number / 7) for number, name in enumerate([*names, "a" * 200])}
    assert api.compose_config(api.to_overrides(config)) == config


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "trainer.epoch",
            2,
            "trainer.epoch: expected a key of the configuration, received an unknown one. Did you mean",
        ),
        (
            "trainer.select",
            "last",
            "trainer.select: expected <Select.last: 'last'>, as its override is read, received 'l",
        ),
        ("augmentation.crop_scale", (0.5, 1), "augmentation.crop_scale: expected [0.5, 1.0], as its override is read"),
        (
            "augmentation.crop_scale",
            np.array([0.5, 1]),
            "augmentation.crop_scale[0]: expected a list such as [a, b], e",
        ),
        ("trainer", None, "trainer: expected a key of the configuration, received an unknown one."),
    ],
)
def test_a_value_that_would_not_be_trained_is_refused(key: str, value: object, message: str) -> None:
    config = api.compose_config()
    *above, last = key.split(".")
    setattr(functools.reduce(getattr, above, config), last, value)
    with pytest.raises(tnt_exp.UserError) as error:
        tnt_exp.train(config)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("overrides", [None, 5, Path("x"), ["model.depth", 2], [["seed=0"]], "dataset.path=\udcf6"])
def test_overrides_are_texts(overrides: Any) -> None:
    for function in (tnt_exp.compose, tnt_exp.train, tnt_exp.sweep):
        with pytest.raises(tnt_exp.UserError, match=r"^overrides: expected texts such as 'model\.depth=8', received "):
            function(overrides)


def test_train_starts_the_command_and_returns_the_run(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tnt_exp.train(["run.name=mine", "model.depth=3"])
    folder = tmp_path / "multirun/runs/mine"
    assert run.path == folder
    expected = ["train", "run.name=mine", "model.depth=3", f"hydra.run.dir='{folder}'"]
    assert json.loads((folder / "arguments.json").read_text()) == expected
    assert capfd.readouterr().out == "epoch 1/2\n"  # the command's own, where there is no notebook
    config = tnt_exp.compose("run.name=other")
    config.model.depth = 7
    assert json.loads((tnt_exp.train(config).path / "arguments.json").read_text())[1:-1] == [
        "model.depth=7",
        "run.name='other'",
    ]
    assert "model.depth=2" in json.loads(
        (tnt_exp.train(x for x in ["model.depth=2"]).path / "arguments.json").read_text()
    )
    first, second = tnt_exp.train(), tnt_exp.train()
    assert first.path != second.path
    whole = tnt_exp.Run(write_run(tmp_path / "whole"))
    tnt_exp.train(whole)
    assert json.loads((whole.path / "arguments.json").read_text()) == ["resume", str(whole.path)]


def test_bad_input_of_the_process_is_a_user_error(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(monkeypatch, "sys.exit('tnt-exp: dataset.path: expected images, found none.') if 0 else 0")
    behave(
        monkeypatch, "print('tnt-exp: dataset.path: expected images,\\n  found none.', file=sys.stderr); sys.exit(2)"
    )
    with pytest.raises(tnt_exp.UserError, match=r"^dataset\.path: expected images,\n  found none\.$"):
        tnt_exp.train()
    with pytest.raises(tnt_exp.UserError, match=r"Did you mean model\.depth"):
        tnt_exp.train("model.depht=3")


def test_a_process_that_was_killed_at_once_is_a_failed_run(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(tnt_exp.RunFailedError, match="exit code -9") as error:
        tnt_exp.train()
    assert len(error.value.runs) == 0


def test_a_failed_run_is_an_error_with_its_last_lines(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"status": "FAILED", "error": "ArithmeticError: no"}
    behave(monkeypatch, f"(folder / 'result.json').write_text({json.dumps(result)!r})")
    behave(monkeypatch, "(folder / 'train.log').write_text('I0000 native' * 400 + '\\nthe last line\\n'); sys.exit(1)")
    with pytest.raises(tnt_exp.RunFailedError) as error:
        tnt_exp.train()
    assert str(error.value) == "ArithmeticError: no\nthe last line"
    assert [run.state for run in error.value.runs] == ["FAILED"]


def test_an_interrupt_while_the_command_is_imported_says_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before, program = signal.signal(signal.SIGINT, signal.default_int_handler), api._CHILD
    imports = "    from tnt_exp.cli"
    assert imports in program
    monkeypatch.setattr(
        api,
        "_CHILD",
        program.replace(imports, f"    import os, time; os.kill(os.getppid(), 2); time.sleep(60)\n{imports}"),
    )
    try:
        with pytest.raises(KeyboardInterrupt, match=r"^stopped; to continue: the same call$"):
            tnt_exp.train("run.name=mine")
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == ""


def test_an_interrupt_reaches_the_run_once(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behave(
        monkeypatch,
        """
count = []
signal.signal(signal.SIGINT, lambda *_: count.append(1))
(folder / "ready").touch()
while not count:
    time.sleep(0.02)
time.sleep(0.5)
(folder / "interrupts").write_text(str(len(count)))
sys.exit(130)""",
    )

    # A shell lets processes in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while not (tmp_path / "multirun/runs/mine/ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt, match=r"to continue: tnt_exp.train\(tnt_exp.Run\('.*/mine'\)\)"):
            tnt_exp.train("run.name=mine")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "multirun/runs/mine/interrupts").read_text() == "1"


def test_an_exception_of_a_signal_handler_ends_the_run(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(monkeypatch, "(folder / 'ready').touch(); time.sleep(60)")

    def expire(number: int, frame: object) -> None:
        raise TimeoutError("mine")

    def send() -> None:
        while not (tmp_path / "multirun/runs/mine/ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    before, begin = signal.signal(signal.SIGUSR1, expire), time.monotonic()
    threading.Thread(target=send).start()
    try:
        with pytest.raises(TimeoutError, match="mine"):
            tnt_exp.train("run.name=mine")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - begin < 30


def test_a_sweep_returns_its_trials_and_reports_those_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "_REFRESH", 0.05)
    fake = f"launcher.command=['{sys.executable}','{FAKE_TRAIN}','--supervised']"
    settings = ["model=tiny", "tracking=off", "tracking.run_name=failures", "launcher.slots=2", fake]
    with pytest.warns(UserWarning, match=r"1 of 3 trials did not finish: .*/0: .*code 3"):
        trials = tnt_exp.sweep([*settings, "seed=0,7,8"])
    assert [(run.job, run.state) for run in trials] == [(0, "FAILED"), (1, "FINISHED"), (2, "FINISHED")]
    with pytest.raises(tnt_exp.RunFailedError, match=r"no trial finished\n.*a sum that does not add up") as error:
        tnt_exp.sweep([*settings, "seed=1"])
    assert [run.state for run in error.value.runs] == ["FAILED"]
    with pytest.raises(tnt_exp.UserError, match="Did you mean"):
        tnt_exp.sweep(["modle.depth=2,3"])


def test_a_run_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = """
import sys
from tnt_exp import api
api._CHILD = api._CHILD.split("from tnt_exp.cli")[0] + '''
import os, time
from pathlib import Path
Path("pid").write_text(str(os.getpid()))
time.sleep(60)
'''
api.train("run.name=mine")
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    while Path(f"/proc/{pid}").exists() and "(zombie)" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_notebook_shows_one_bar(fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
        shown.append(data)
        return SimpleNamespace(update=lambda data, *, raw: shown.append(data))

    kernel = SimpleNamespace(kernel=1)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    behave(
        monkeypatch,
        """
for epoch in (1, 2):
    lines = "".join(f"{number},0.{number}\\\\n" for number in range(1, epoch + 1))
    (folder / "metrics.csv").write_text("epoch,val/accuracy\\\\n" + lines)
    time.sleep(1.2)
""".replace("\\\\n", "\\n"),
    )
    tnt_exp.train(["trainer.epochs=2", "run.name=mine"])
    texts = [re.sub(r"left \d+:\d\d", "left T", data["text/plain"]) for data in shown]
    steps = list(dict.fromkeys(texts))
    assert steps[0] == "starting"
    assert steps[-2:] == ["epoch 1 of 2, val/accuracy 0.1000, left T", "epoch 2 of 2, val/accuracy 0.2000, left T"]
    assert shown[-1]["text/html"].startswith('<progress value="2" max="2"></progress> epoch 2 of 2')
    assert all("\r" not in text for data in shown for text in data.values())


def test_importing_the_package_imports_nothing_slow() -> None:
    program = "import sys, tnt_exp; dir(tnt_exp); print(sorted({n.partition('.')[0] for n in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    slow = {"tensorflow", "keras", "mlflow", "pandas", "scipy", "numpy", "hydra", "omegaconf", "matplotlib", "IPython"}
    assert [name for name in slow if f"'{name}'" in done.stdout] == []


def test_every_public_name_is_there_and_is_not_a_module() -> None:
    import tnt_exp.run
    import tnt_exp.sweeps.study

    for name in tnt_exp.__all__:
        assert not isinstance(getattr(tnt_exp, name), type(sys)), name
    assert dir(tnt_exp) == sorted(tnt_exp.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        tnt_exp.nothing  # noqa: B018


def test_a_run_is_what_predict_and_evaluate_need(tmp_path: Path) -> None:
    run = tnt_exp.Run(write_run(tmp_path / "run"))
    for use in (run.model, run.evaluate, lambda: run.predict([])):
        with pytest.raises(tnt_exp.UserError, match=r"received one without model\.keras"):
            use()
