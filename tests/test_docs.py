"""README and docs: each page's commands are typed in their order, in a fresh folder; links, files and programs work.

Every line of a block of code marked bash or sh is a command.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import preloaded
import pytest
from data import official_files
from finished_runs.fake_runs import write_run
from PIL import Image

import tnt_exp
from tnt_exp import api
from tnt_exp.cli import main
from tnt_exp.config.compose import compose

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "multirun/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

# What a command begins with: what is done with it, where that is not to type it. The first that matches counts.
KINDS = {
    r"make ": "target",
    r"pip install": "extra",
    r"(apt-get|runuser|export) ": "outside",  # of a machine that serves others: not tried
    r"tnt-exp train tracking.register=": "serve",
    r".*mlflow models serve": "serve",
    r"curl .*invocations": "serve",
    r"mlflow server ": "server",
    r"tnt-exp train .*launcher=ray": "dry run, ray",  # sweeps on these are in tests/sweep
    r"tnt-exp train .*launcher=submitit": "dry run, submitit",
    r"tnt-exp ui": "ui",
}

TYPED = ("typed", "ui", "server")

FAKE_TRAIN = ROOT / "tests/sweep/fake_train.py"


def blocks(page: Path | str, kind: str) -> list[str]:
    """The blocks of code of a page that are marked so."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^ *```{kind}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)


def lines(block: str) -> Iterator[str]:
    """The commands of a block, each in one line without its comment."""
    for line in block.replace("\\\n", " ").splitlines():
        if command := re.sub(r"(^|\s+)# .*", "", line).strip():
            yield re.sub(r"\s+", " ", command)


def commands(page: Path) -> list[str]:
    return [command for block in blocks(page, "(?:bash|sh)") for command in lines(block)]


def kind(command: str) -> str:
    return next((kind for beginning, kind in KINDS.items() if re.match(beginning, command)), "typed")


def of_kind(*kinds: str) -> list[str]:
    found = itertools.chain.from_iterable(map(commands, PAGES))
    return list(dict.fromkeys(command for command in found if kind(command) in kinds))


def photograph(file: Path, mode: str, size: tuple[int, int], bright: bool) -> None:
    """A picture of noise, bright or dark."""
    random = np.random.default_rng(sum(map(ord, str(file.name))))
    noise = random.integers(128 if bright else 0, 256 if bright else 128, (size[1], size[0], 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).convert(mode).save(file)


def write_files_of_a_reader(folder: Path) -> None:
    """Write what the pages take for granted: photos as people have them, and the files whose text they show."""
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
    cifar100 = official_files.binary_cifar100()
    del cifar100["fine_label_names.txt"]  # the real names are known
    (folder / "cifar-100-binary.tar.gz").write_bytes(official_files.tar(cifar100, "cifar-100-binary", mode="gz"))
    write_yaml_files(folder)


SHALLOW = "model.depth=2"
# What a real run of a few seconds is made of.
SHORT = [
    *("trainer.epochs=1", "trainer.steps_per_epoch=3", "trainer.batch_size=16", "schedule.warmup_epochs=0"),
    *("augmentation.mix_off_epochs=0", "tracking.system_metrics=false"),
]


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell that finds those installed beside this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=280
    )


class Reader:
    """Someone who types the commands of one page, one after the other, in a folder of their own."""

    def __init__(self, page: Path, folder: Path) -> None:
        self.page, self.folder, self._servers = page, folder, ExitStack()
        self._names = {"ARCHIVE": "cifar-100-binary.tar.gz", "/data/imagenet": "photos"}  # word: what it stands for
        self._names["format=all"] = "format=safetensors"
        write_files_of_a_reader(folder)
        typed = " ".join(commands(page))
        if "tnt_s.safetensors" in typed:
            from tnt_exp.model import build, pretrained

            network = build(compose(["model=tnt_s", SHALLOW]).model, 1000, 3).network
            pretrained.save_timm(network, folder / "tnt_s.safetensors")
        if re.search(r"\b(RUN|NAME)\b", typed):  # the reader's
            self.type("tnt-exp train experiment=photos dataset.path=photos run.name=photos")
            self._names |= {"RUN": "multirun/runs/photos", "NAME": "photos"}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()

    def type(self, command: str) -> str:
        """Type a command; return what it printed.

        A training takes three steps, which compute something for the photos of README alone; elsewhere a network
        without weights of its own has two blocks. Trials of a sweep are fakes, without MLflow, and at most four of a
        search. One format is written for all. There is no GPU, and no server of the names in the text.
        """
        for word, meaning in self._names.items():
            command = re.sub(rf"(?<!\w){re.escape(word)}\b", meaning, command)
        kind_, words = kind(command), shlex.split(command)
        if kind_ == "server":
            return self._serve(words)
        if kind_ == "ui":
            return self._open_ui(words[1:])
        if words[0] != "tnt-exp" or set("|<>*?") & set(command):
            return self._checked(command, shell(self.folder, command))
        options: dict[str, Any] = {}
        if words[1] == "train" and "--cfg" not in words:
            words, options = self._shortened(words)
        return self._checked(command, preloaded.run(words[1:], self.folder, **options))

    def _shortened(self, words: list[str]) -> tuple[list[str], dict[str, Any]]:
        words = [word for word in words if word not in ("trainer=gpu", "trainer.devices=8")]
        if "-m" in words:
            search = ["sweep.trials=4"] if {"sweep=bayes", "sweep=recipe"} & set(words) else []
            return [*words, *search, "tracking=off"], {"trials": FAKE_TRAIN}
        if any("cifar" in word for word in words):
            words = [*words, "dataset.path=cifar-100-binary.tar.gz"]
        real = self.page.name == "README.md" and "experiment=photos" in words
        if real:
            words = [*words, "model=tiny", "model.weights=null"]
        elif not re.search(r"experiment=photos|model\.(weights=(?!tnt_s)|depth=)", " ".join(words)):
            words = [*words, SHALLOW]
        return [*words, *SHORT], {"stub": not real}

    def _checked(self, command: str, done: subprocess.CompletedProcess[str]) -> str:
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout or ">" in command or " sync" in command, command
        for sweep in self.folder.glob("multirun/sweeps/*"):
            self._names["SWEEP"] = sweep.name
        return done.stdout

    def _serve(self, words: list[str]) -> str:
        """Start the server of a team, in this folder and on a free port, until the page ends."""
        port = free_port()
        here = {"0.0.0.0": "127.0.0.1", "5000": str(port), "server:5000": f"127.0.0.1:{port}", "/srv/mlflow": "srv"}
        words = [here.get(word, word) for word in words]
        words[words.index("--backend-store-uri") + 1] = "sqlite:///server.db"
        self._servers.enter_context(serving(self.folder, words, f"http://127.0.0.1:{port}/health"))
        self._names["http://server:5000"] = f"http://127.0.0.1:{port}"
        self._names["postgresql+psycopg2://mlflow@server/mlflow"] = "sqlite:///another.db"
        return ""

    def _open_ui(self, words: list[str]) -> str:
        port, output = free_port(), self.folder / "ui.txt"
        process = preloaded.start([*words, "--no-open", "--port", str(port)], self.folder, output)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", lambda: process.poll() is None, output)
        finally:
            process.kill()
        return output.read_text()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page) and page.name != "python.md"], ids=lambda page: page.name
)
def test_the_commands_of_a_page_in_their_order(page: Path, tmp_path: Path) -> None:
    with Reader(page, tmp_path) as reader:
        answers = {command: reader.type(command) for command in commands(page) if kind(command) in TYPED}
    if page.name == "README.md":
        check_the_model_of_photos(tmp_path, answers)
    if page.name == "after-training.md":
        assert "photo.jpg" in (tmp_path / "answers.csv").read_text()
        (answer,) = (text for command, text in answers.items() if command.startswith("python "))
        assert re.fullmatch(r"photo\.jpg (bright|dark) [01]\.\d{4}\n", answer)


def check_the_model_of_photos(folder: Path, answers: dict[str, str]) -> None:
    """Photos in, a model out: by the README's commands."""
    (predicted,) = (text for command, text in answers.items() if command.startswith("tnt-exp predict"))
    assert "new.jpg" in predicted
    assert re.search(r"bright|dark", predicted)
    run = folder / "multirun/runs/photos"
    assert json.loads((run / "result.json").read_text())["status"] == "FINISHED"
    assert (run / "export/savedmodel/saved_model.pb").exists()
    labels = json.loads((run / "export/litert/metadata.json").read_text())["labels"]
    assert sorted(labels) == ["bright", "dark"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=getattr(pytest.mark, package))
        for package in ("ray", "submitit")
        for command in of_kind(f"dry run, {package}")
    ],
)
def test_sweep_on_other_machines_lists_its_points(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [argument for argument in shlex.split(command)[1:] if argument != "..."]
    if "..." in command:
        arguments.append("model.depth=2,3")
    assert main([*arguments, "--dry-run"]) == 0, capsys.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()


def test_commands_are_found() -> None:
    assert len(of_kind(*TYPED)) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_code_says_what_it_is(page: Path) -> None:
    fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "sh", "python", "yaml", "text"}


@pytest.mark.timeout(600)
def test_the_page_on_python_runs_and_names_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in their order. Trials and the run that fails are fakes, the others start in a forked process."""

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
    page, names = ROOT / "docs/python.md", {}
    reader = Reader(page, tmp_path)
    for language, block in re.findall(r"^```(python|bash)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        if language == "python":
            exec(compile(block, str(page), "exec"), names)
        else:
            assert all(map(reader.type, lines(block)))
    assert names["run"].state == "FINISHED"
    assert [run.state for run in names["trials"]] == ["FINISHED"] * 4
    assert names["comparison"].names == ["depth=1 (2 runs)", "depth=2 (2 runs)"]
    used = set(re.findall(r"tnt_exp\.(\w+)", " ".join(blocks(page, "python"))))
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


def write_yaml_files(folder: Path) -> list[Path]:
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
    assert len(write_yaml_files(tmp_path)) == (ROOT / "docs/configuration.md").read_text().count("```yaml") == 2
    config = compose(["experiment=mine", "model=mine"], "my_conf")
    assert (config.trainer.epochs, config.model.depth, config.dataset.name.value) == (100, 6, "cifar100")
    file = tmp_path / "my_conf/experiment/mine.yaml"
    file.write_text(f"# Mine.\n{file.read_text()}")
    assert main(["train", "--config-dir", "my_conf", "experiment=mine"]) == 2
    assert "experiment/mine.yaml: expected '# @package _global_' as its first line" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return int(there.getsockname()[1])


def wait_for(address: str, runs: Callable[[], bool], output: Path) -> None:
    """Wait until an address answers.

    Raises:
        AssertionError: What serves it ended, or needs too long.
    """
    deadline = time.monotonic() + 250
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert runs(), output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)


@contextmanager
def serving(folder: Path, words: list[str], address: str) -> Iterator[None]:
    """A server that runs until the block ends: a command, perhaps with variables in front, and where it answers."""
    variables = list(itertools.takewhile(lambda word: "=" in word, words))
    environment = os.environ | dict(word.split("=", 1) for word in variables)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    file = folder / "server.txt"
    with file.open("w") as output:
        server = subprocess.Popen(
            words[len(variables) :], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_for(address, lambda: server.poll() is None, file)
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
    small = [*SHORT, "model=tiny", "model.depth=1", "run.name=served"]
    done = preloaded.run([*shlex.split(train)[1:], *small], tmp_path)
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
    with serving(tmp_path, shlex.split(serve.replace("-p 5001", f"-p {port}")), f"http://127.0.0.1:{port}/ping"):
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
    _, program = blocks("docs/after-training.md", "python")
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    assert len(namespace["table"]) == len(namespace["images"]) == 2
    assert list(namespace["model"].predict(images)["class"]) == classes


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


@pytest.mark.openvino
def test_the_program_that_opens_an_export_in_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers what ONNX Runtime does, up to the rounding of int8."""
    from tnt_exp import model
    from tnt_exp.export import runtime, writers

    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    classifier = model.build(compose(["dataset=cifar10", "model=cifar_small", "model.depth=2"]).model, 10, 3)
    folder = tmp_path / "export/onnx_int8"
    folder.mkdir(parents=True)
    metadata = {"labels": [*map(str, range(10))], "input": {"shape": [None, 32, 32, 3]}}
    writers.onnx_int8(classifier, metadata, folder, images)
    monkeypatch.chdir(tmp_path)
    program, _ = blocks("docs/after-training.md", "python")
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    assert namespace["logits"].shape == (1, 10)
    answers, wanted = namespace["model"](images)["logits"], runtime.onnx(folder)(images)
    np.testing.assert_allclose(answers, wanted, atol=0.05 * np.abs(wanted).max())


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
