"""The commands of the README and of docs/ work: run as they are typed, shrunk where they take long, or composed.

Every line of a block of code marked bash or sh is a command, and every command has a line in `KINDS`.
"""

import importlib
import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import preloaded
import pytest
from finished_runs.fake_runs import write_run
from PIL import Image

import tnt_exp
from tnt_exp import api
from tnt_exp.cli import main
from tnt_exp.config.compose import compose
from tnt_exp.preflight import preflight

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "multirun/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

# What a command begins with: what is done with it. The first that matches counts.
KINDS = {
    r"make ": "target",
    r"pip install": "extra",
    r"(apt-get|runuser|export|mlflow server) ": "outside",  # of a machine that serves others: not tried
    r"tnt-exp train experiment=photos .*run.name=photos": "walk",
    r"tnt-exp (predict|export) multirun/runs/photos": "walk",
    r"tnt-exp train tracking.register=": "serve",
    r".*mlflow models serve": "serve",
    r"curl .*invocations": "serve",
    r"tnt-exp train .*launcher=ray": "dry run, ray",
    r"tnt-exp train .*launcher=submitit": "dry run, submitit",
    r"tnt-exp train -m": "dry run",
    r"tnt-exp train( |$)": "compose",
    r"tnt-exp (evaluate|predict|explain|export) (RUN|multirun/)": "on a run",
    r"find .*\| tnt-exp predict RUN": "on a run",
    r"python multirun/runs/photos/export": "example",
    r"tnt-exp (\w+)": "help",
}

FAKE_TRAIN = ROOT / "tests/sweep/fake_train.py"


def blocks(page: Path | str, kind: str) -> list[str]:
    """The blocks of code of a page that are marked so."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def commands() -> Iterator[str]:
    for page in PAGES:
        for block in re.findall(r"^ *```(?:bash|sh)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if command := re.sub(r"(^|\s+)# .*", "", line).strip():
                    yield re.sub(r"\s+", " ", command)


def kind(command: str) -> str | None:
    return next((kind for beginning, kind in KINDS.items() if re.match(beginning, command)), None)


def of_kind(*kinds: str) -> list[str]:
    return list(dict.fromkeys(command for command in commands() if kind(command) in kinds))


def photograph(file: Path, mode: str, size: tuple[int, int], bright: bool) -> None:
    """A picture of noise, bright or dark."""
    random = np.random.default_rng(sum(map(ord, str(file.name))))
    noise = random.integers(128 if bright else 0, 256 if bright else 128, (size[1], size[0], 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).convert(mode).save(file)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: sizes, formats and colour modes as they come."""
    folder = tmp_path_factory.mktemp("photos")
    kinds = [
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("RGBA", "png"),
        ("P", "png"),
        ("1", "png"),
        ("RGB", "JPEG"),
    ]
    for number in range(40):
        mode, suffix = kinds[number % len(kinds)]
        for name in ("dark", "bright"):
            size = (20 + 7 * number, 90 - number)
            photograph(folder / f"photos/{name}/{number}.{suffix}", mode, size, name == "bright")
    for name in ("dark", "bright"):
        for number in range(3):
            photograph(folder / f"others/{name}/{number}.png", "RGB", (50, 40), name == "bright")
    for name in ("new.jpg", "photo.jpg", "folder/a.png", "folder/b.jpg", "more/deep/c.png"):
        photograph(folder / name, "RGB", (70, 50), bright=True)
    (folder / "tnt_s.safetensors").touch()  # stands for published weights, where a command is only composed
    return folder


# What makes a real run of a few seconds of any training command.
_SMALL = [
    *("model=tiny", "trainer.epochs=1", "trainer.steps_per_epoch=3", "trainer.batch_size=16"),
    *("schedule.warmup_epochs=0", "model.weights=null", "tracking.system_metrics=false"),
]


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as typed, with the commands that are installed beside this Python."""
    words = shlex.split(command)
    if words[0] == "tnt-exp" and not set("|<>*?") & set(command):
        return preloaded.run(words[1:], folder)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    """The folder in which the README's three commands were typed: photos in, a model out."""
    walk = of_kind("walk")
    assert [command.split()[1] for command in walk] == ["train", "predict", "export"]
    for command in walk:
        done = shell(photos, shlex.join([*shlex.split(command), *(_SMALL if " train " in command else [])]))
        assert done.returncode == 0, command + done.stdout + done.stderr
        (photos / f"{command.split()[1]}.txt").write_text(done.stdout)
    return photos


def test_every_command_is_of_a_kind() -> None:
    found = list(commands())
    assert len(found) > 20
    assert [command for command in found if kind(command) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_says_what_it_is(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "sh", "python", "yaml", "text"}


@pytest.mark.timeout(600)
def test_the_page_on_python_runs_and_names_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in their order. Trials and the run that fails are fakes, the other run starts in a forked process."""

    class Child(api._Child):
        def __init__(self, arguments: list[str], progress: object) -> None:
            if "-m" in arguments:
                fake = f"launcher.command=['{sys.executable}','{FAKE_TRAIN}','--supervised']"
                return super().__init__([*arguments, fake], progress)
            self.pid, self.interrupted, self.code, self.output = 0, False, 1, ""
            if "run.name=diverged" in arguments:
                write_run(tmp_path / "multirun/runs/diverged", "run.name=diverged", status="FAILED", error="nan")
                return None
            self.code = preloaded.run(arguments, tmp_path).returncode
            return None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "_Child", Child)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["run"].state == "FINISHED"
    assert [run.state for run in names["trials"]] == ["FINISHED"] * 4
    assert names["comparison"].names == ["depth=1 (2 runs)", "depth=2 (2 runs)"]
    used = set(re.findall(r"tnt_exp\.(\w+)", " ".join(blocks)))
    assert set(tnt_exp.__all__) - used == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles], link


def test_reference_is_what_the_schema_says() -> None:
    """Where this fails: `make docs`."""
    done = subprocess.run([sys.executable, ROOT / "docs/reference.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_targets_and_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in of_kind("extra"):
        named = re.search(r"\[([\w,]+)\]", command)
        assert named is None or set(named[1].split(",")) <= extras.keys(), command
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in of_kind("target"):
        assert command.split()[1] in targets, command


@pytest.mark.parametrize("command", of_kind("compose"))
def test_training_command_composes_and_can_run(command: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    arguments = shlex.split(command.replace("/data/imagenet", "photos"))[2:]
    if "--cfg" in arguments:
        assert main(["train", *arguments]) == 0
        return
    config_dir = arguments.pop(arguments.index("--config-dir") + 1) if "--config-dir" in arguments else None
    if config_dir is not None:
        write_files_of_a_user(photos)
    # The archives of known datasets are not here; that they would be fetched is all that is not tried.
    preflight(compose([argument for argument in arguments if not argument.startswith("-")], config_dir))


def write_files_of_a_user(folder: Path) -> list[Path]:
    """Copy the YAML blocks of docs/configuration.md to the files that the text names before them."""
    files = []
    text = (ROOT / "docs/configuration.md").read_text()
    for name, block in re.findall(r"`(my_conf/[\w/]+\.yaml)`[^`]*```yaml\n(.*?)```", text, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(block)
        files.append(folder / name)
    return files


def test_the_files_of_a_user_compose_as_they_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(write_files_of_a_user(tmp_path)) == (ROOT / "docs/configuration.md").read_text().count("```yaml") == 2
    config = compose(["experiment=mine", "model=mine"], "my_conf")
    assert (config.trainer.epochs, config.model.depth, config.dataset.name.value) == (100, 6, "cifar100")
    file = tmp_path / "my_conf/experiment/mine.yaml"
    file.write_text(f"# Mine.\n{file.read_text()}")
    assert main(["train", "--config-dir", "my_conf", "experiment=mine"]) == 2
    assert "experiment/mine.yaml: expected '# @package _global_' as its first line" in capsys.readouterr().err


def _dry(kind_: str, mark: str | None = None) -> list[object]:
    marks = [getattr(pytest.mark, mark)] if mark else []
    return [pytest.param(command, marks=marks) for command in of_kind(kind_)]


@pytest.mark.parametrize(
    "command", [*_dry("dry run"), *_dry("dry run, ray", "ray"), *_dry("dry run, submitit", "submitit")]
)
def test_sweep_lists_its_points(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [argument for argument in shlex.split(command)[1:] if argument != "..."]
    if "..." in command:
        arguments.append("model.depth=2,3")
    assert main([*arguments, "--dry-run"]) == 0, capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("command", of_kind("help"))
def test_verb_has_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    verb, *arguments = shlex.split(command)[1:]
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    printed = capsys.readouterr().out
    assert [word for word in arguments if word.startswith("--") and word.split("=")[0] not in printed] == []


@pytest.mark.timeout(600)
def test_photos_become_a_model_by_the_readmes_three_commands(run: Path) -> None:
    assert "new.jpg" in (run / "predict.txt").read_text()
    assert re.search(r"bright|dark", (run / "predict.txt").read_text())
    folder = run / "multirun/runs/photos"
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "FINISHED"
    assert (folder / "export/savedmodel/saved_model.pb").exists()
    labels = json.loads((folder / "export/litert/metadata.json").read_text())["labels"]
    assert sorted(labels) == ["bright", "dark"]


@pytest.mark.parametrize("command", of_kind("on a run"))
def test_command_on_a_run(
    command: str, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = re.sub(r"RUN|multirun/runs/\w+", "multirun/runs/photos", command)
    command = re.sub(r"format=\S+", "format=keras", command)  # the README's export writes others
    if "|" in command:
        done = shell(run, command)
        assert done.returncode == 0, done.stderr
        assert "photo.jpg" in (run / "answers.csv").read_text()
        return
    monkeypatch.chdir(run)
    assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert len(capsys.readouterr().out) > 50 or "explain" in command


def free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return int(there.getsockname()[1])


@contextmanager
def serving(folder: Path, command: str, port: int) -> Iterator[None]:
    """The server of the documented command on another port, until the block ends."""
    words = shlex.split(command.replace("-p 5001", f"-p {port}"))
    environment = os.environ | dict(word.split("=", 1) for word in words[: words.index("mlflow")])
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (folder / "server.txt").open("w") as output:
        server = subprocess.Popen(
            words[words.index("mlflow") :],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 250
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "server.txt").read_text()
                assert time.monotonic() < deadline, (folder / "server.txt").read_text()
                time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, 15)
        server.wait(timeout=30)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # by MLflow about its own types, when it is imported
@pytest.mark.timeout(600)
def test_served_model_answers_what_predict_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, serve, ask = of_kind("serve")
    done = shell(tmp_path, shlex.join([*shlex.split(train), *_SMALL, "run.name=served", "model.depth=1"]))
    assert done.returncode == 0, done.stdout + done.stderr
    from tnt_exp import data

    images = data.load_dataset(compose([]).dataset).test.images[:6]
    for number, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "multirun/runs/served", *(f"{number}.png" for number in range(6)), "--json"]) == 0
    classes = [json.loads(line)["class"] for line in capsys.readouterr().out.splitlines()]
    assert len(classes) == 6

    port = free_port()
    with serving(tmp_path, serve, port):
        documented = shell(tmp_path, ask.replace("localhost:5001", f"127.0.0.1:{port}").replace("curl", "curl -s", 1))
        assert len(json.loads(documented.stdout)["predictions"]) == 1, documented.stdout + documented.stderr
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": images.tolist()}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
    assert [row["class"] for row in rows] == classes
    (program,) = blocks("docs/after-training.md", "python")
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    assert len(namespace["table"]) == len(namespace["images"]) == 2
    assert list(namespace["model"].predict(images)["class"]) == classes


def test_the_example_of_an_export_runs_as_it_is_typed(run: Path) -> None:
    (command,) = of_kind("example")
    done = shell(run, command)
    assert re.fullmatch(r"photo\.jpg (bright|dark) [01]\.\d{4}\n", done.stdout), done.stderr


def test_every_program_and_yaml_file_is_run_by_a_test() -> None:
    """Those of docs/python.md above, of docs/extending.md in test_extending.py, of docs/configuration.md above."""
    found = {(page.name, kind) for page in PAGES for kind in ("python", "yaml") if blocks(page, kind)}
    assert found == {
        ("after-training.md", "python"),
        ("configuration.md", "yaml"),
        ("extending.md", "python"),
        ("extending.md", "yaml"),
        ("python.md", "python"),
        ("sweeps.md", "python"),
    }


def test_the_program_that_opens_a_search_in_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the folder of a sweep, without a window: one key decides, the other does not."""
    import optuna
    from optuna import visualization
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend("optuna.log")))
    distribution = optuna.distributions.FloatDistribution(0, 1)
    for x, y in itertools.product((0.0, 0.5, 1.0), repeat=2):
        params = {"model.depth": x, "seed": y}
        study.add_trial(optuna.create_trial(params=params, distributions=dict.fromkeys(params, distribution), value=x))
    drawn: list[dict[str, float]] = []
    draw = SimpleNamespace(show=lambda: None)
    importances = optuna.importance.get_param_importances
    for module in (visualization, importlib.import_module("optuna.visualization")):  # the first imports lazily
        monkeypatch.setattr(module, "plot_param_importances", lambda found: drawn.append(importances(found)) or draw)
    (program,) = blocks("docs/sweeps.md", "python")
    exec(program, {})
    assert next(iter(drawn[0])) == "model.depth"
