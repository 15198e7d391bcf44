"""The damage matrix: each file of a run, of a sweep and of a store x each damage x each verb.

One real run and one real sweep, shrunk, are made once. For each case one file is damaged in place, a verb is typed (in
this process), the answer is checked, and the folder is restored. Every answer is the right result, or exit code 1 or 2
with one line that names the file; none is a traceback, and no other run is touched. What takes seconds and reads no
file of a run (the network, pictures, an export's own runtime) is replaced; the last tests replace nothing.
"""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState as OptunaState
from PIL import Image

import tnt_exp
from tnt_exp import atomic_files, cli, data, provenance
from tnt_exp.cli import reproduce
from tnt_exp.config.compose import load_config
from tnt_exp.config.sweep import SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.experiment import Experiment
from tnt_exp.finished_runs import find
from tnt_exp.hardware import seconds_since_start
from tnt_exp.reports import attention, run_figures
from tnt_exp.run_folder import RunFolder
from tnt_exp.sweeps.optuna_search import OptunaSearch
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import trial_state
from tnt_exp.tracking import doctor, queries, tracker
from tnt_exp.training.checkpoint import CheckpointStore

SMALL = ["model=tiny", "dataset.train_limit=200", "tracking.system_metrics=false", "tracking.log_model=false"]
TRAIN = ["train", *SMALL, "trainer.epochs=1", "run.name=run"]
RUN, OTHER, HALF = (Path("multirun/runs") / name for name in ("run", "other", "half"))
SWEEP = Path("swept/sweep")
GRID = [
    "train",
    "-m",
    "model=tiny",
    "trainer.epochs=1",
    "tracking=off",
    "optimizer.learning_rate=1e-3,1e-2",
    f"hydra.sweep.dir={SWEEP}",
]
FAKE_TRAIN = Path(__file__).parent / "sweep" / "fake_train.py"
STEP = "checkpoints/step-00000002"
RUN_FILES = [
    *("config.yaml", "overrides.yaml", "result.json", "mlflow.json", "metrics.csv", "dataset.json"),
    *("provenance/starts.json", "model.keras", f"{STEP}.json", f"{STEP}.safetensors"),
]
SWEEP_FILES = ["sweep.json", "0/config.yaml", "0/overrides.yaml", "0/result.json", "0/metrics.csv", "0/output.log"]
# The lock of a sweep is held until its process ends, which here continues.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
BINARY = (".keras", ".safetensors", ".db")


def delete(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_at_a_line(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[: (len(lines) + 1) // 2]) if len(lines) > 1 else b"")


def flip(file: Path) -> None:
    """A bit of a byte in the middle: the highest one of a text, which is not UTF-8 then."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1 if file.suffix in BINARY else 0x80
    file.write_bytes(content)


def replace_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES = [delete, empty, half, cut_at_a_line, flip, replace_by_a_folder]


def typed(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, typed in the working folder."""
    here, environment, out, err = Path.cwd(), dict(os.environ), io.StringIO(), io.StringIO()
    root = logging.getLogger()
    root.handlers.clear()
    root.setLevel(logging.WARNING)
    atomic_files.warn_once.cache_clear()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(words)
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        for handler in root.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()
        root.handlers.clear()
    return code, out.getvalue(), err.getvalue()


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of each file."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a store, two runs, one that was interrupted before its last lines, and a sweep."""
    folder, here = tmp_path_factory.mktemp("damage"), Path.cwd()
    os.chdir(folder)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("image.png")
    code, out, err = typed(*TRAIN)
    assert code == 0, out + err
    for copy in (OTHER, HALF):
        shutil.copytree(RUN, copy, ignore=shutil.ignore_patterns("mlflow*"))
        config = (copy / "config.yaml").read_text()
        config = config.replace("name: run\n", f"name: {copy.name}\n").replace("enabled: true", "enabled: false")
        (copy / "config.yaml").write_text(config)
    (HALF / "result.json").unlink()
    (HALF / "model.keras").unlink()
    command = f"launcher.command=['{sys.executable}','{FAKE_TRAIN}','--supervised']"
    code, out, err = typed(*GRID, command)
    assert code == 0, out + err
    for job in "01":  # the fake training leaves none
        shutil.copyfile(RUN / "model.keras", SWEEP / job / "model.keras")
    shutil.copytree(folder, folder.with_name("pristine"))
    # A trial that is run again gets what it had.
    Path("again.sh").write_text(f'cp -r "{folder.with_name("pristine")}/{SWEEP}/$(basename "$1")/." "$1"\n')
    yield folder
    os.chdir(here)
    gc.collect()  # the locks of sweeps, while their warning is not an error


@pytest.fixture(autouse=True)
def _in_the_working_folder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)


def restore(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path("../pristine") / folder, folder)


@contextlib.contextmanager
def damaged(file: Path, damage: Callable[[Path], None]) -> Iterator[None]:
    """Damage a file of a run or of a sweep, and restore the folder afterwards."""
    folder = next(each for each in (RUN, HALF, SWEEP) if each in file.parents)
    damage(file)
    try:
        yield
    finally:
        restore(folder)


# ---------------------------------------------------------------- What takes seconds is replaced


class FakeNetwork:
    """What a model's file is taken for that is as it was; every other file is loaded."""

    class_names = tuple("0123456789")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.tile(np.arange(10.0), (len(images), 1))

    predict_on_batch = __call__


class FakeTrainer:
    """Continues from a checkpoint without a step, or takes over the pristine one's."""

    augmentation = None

    def __init__(self, config: Any, classifier: Any, dataset: Any, device: Any, folder: RunFolder, *_: Any) -> None:
        self.folder, self.state = folder, self
        self.rows: list[dict[str, float]] = []

    def fit(self) -> None:
        pristine = Path("../pristine") / RUN / "checkpoints"
        last = CheckpointStore(self.folder.checkpoints, keep=3).newest()
        if last is None:  # trained anew
            shutil.copytree(pristine, self.folder.checkpoints, dirs_exist_ok=True)
            last = CheckpointStore(pristine, keep=3).newest()
        assert last is not None
        self.rows = last.values["state"]["rows"]
        self.folder.write_metrics(self.rows)


log_evaluation, load_dataset, find_problems = queries.log_evaluation, data.load_dataset, doctor.find_problems


@functools.cache
def read_digits(run: Path) -> data.Dataset:
    """The data of the run."""
    return load_dataset(load_config(run / "config.yaml").dataset)


@pytest.fixture
def _fast(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is computed or drawn; what is read of a run folder, and what is written there, is real."""
    # Imported late: absl keeps the stream that is standard error now, and Hydra closes it.
    from tnt_exp.export import writers
    from tnt_exp.training import trainer

    pristine = Path("../pristine") / RUN
    reference, digest = json.loads((pristine / "result.json").read_text()), contents(pristine)["model.keras"]
    digits = read_digits(pristine)
    load = find.load_for_evaluation

    def loaded(finished: Any, trainer: Any) -> Any:
        same = hashlib.sha256(finished.model_file.read_bytes()).hexdigest() == digest
        return FakeNetwork() if same else load(finished, trainer)

    def tested(self: Experiment, *_: Any) -> None:
        self.result.update({key: reference[key] for key in ("metrics", "epoch", "class_accuracy")})

    def reproduced(config: Any, *, folder: str, **_: Any) -> int:
        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        return 0

    def nothing(*_: Any, **__: Any) -> None:
        pass

    def untracked(config: Any, folder: RunFolder, dataset: Any, tags: Any, result: dict[str, Any]) -> None:
        shutil.copyfile(pristine / "mlflow.json", folder.path / "mlflow.json")
        result["mlflow_run_id"] = reference["mlflow_run_id"]

    for place, name, value in (
        (tracker, "start_run", untracked),
        (doctor, "find_problems", lambda _: ()),
        (Experiment, "_prepare_device", lambda self: self.result.update(hardware={})),
        (Experiment, "_build_classifier", nothing),
        (Experiment, "_draw_samples", nothing),
        (Experiment, "_test", tested),
        (Experiment, "_save", lambda self, *_: shutil.copyfile(pristine / "model.keras", self.folder.model)),
        (trainer, "Trainer", FakeTrainer),
        (provenance, "start", lambda **facts: {"cwd": str(Path.cwd()), "git_diff": None, **facts}),
        (data, "load_dataset", lambda _: digits),
        (find, "load_for_evaluation", loaded),
        (reproduce, "run_experiment", reproduced),
        (attention, "read_attention", lambda *_: ("3", 0.5, None, None)),
        (attention, "attention_maps", nothing),
        (run_figures, "draw_samples", nothing),
        (run_figures, "draw_confusion_matrix", nothing),
        (queries, "log_evaluation", lambda *_: True),
        (writers, "as_float32", lambda classifier: classifier),
        (writers, "export_metadata", lambda *_, metrics, **__: {"metrics": metrics}),
        (writers, "verify_export", lambda *_: writers.ExportCheck(np.zeros((1, 10)), 0.0, 1.0, 1)),
    ):
        monkeypatch.setattr(place, name, value)
    monkeypatch.setitem(writers.WRITERS, "keras", nothing)


# ---------------------------------------------------------------- A run

VERBS = {
    "train": TRAIN,
    "resume": ["resume", str(RUN)],
    "predict": ["predict", str(RUN), "image.png", "--json"],
    "evaluate": ["evaluate", str(RUN), "--json"],
    "explain": ["explain", str(RUN), "image.png", "--output", "explained.png"],
    "export": ["export", str(RUN), "format=keras", "output=exported"],
    "reproduce": ["reproduce", str(RUN), "--output", "reproduced"],
    "report": ["report", str(RUN)],
    "sync": ["sync", str(RUN)],
    "doctor": ["doctor"],
}
# A file that is not there may never have been, and a list that is shorter is a list.
NOT_SEEN_BY_DOCTOR = {
    *((name, delete) for name in ("result.json", "mlflow.json", "dataset.json", "provenance/starts.json")),
    *(("overrides.yaml", damage) for damage in DAMAGES),
}


def problem_of(answer: tuple[int, str, str], names: tuple[str, ...]) -> str | None:
    """What is wrong with an answer that is not the right result: it must name the file, in one line of its own."""
    code, out, err = answer
    if "Traceback" in out + err:
        return f"a traceback: {out}{err}"
    if code not in (0, 1, 2):
        return f"exit code {code}"
    errors = [line for line in err.splitlines() if line.startswith("tnt-exp: ")]
    if code == 2 and len(errors) != 1:
        return f"{len(errors)} lines of error: {err}"
    if code and not any(name in line for line in (out + err).splitlines() for name in names):
        return f"the file is not named: {out}{err}"
    return None


def wrong_run(folder: Path) -> str | None:
    """What is wrong with a run that was trained or resumed and ended with code 0."""
    pristine = Path("../pristine") / RUN
    for name in ("metrics.csv", "dataset.json", "model.keras"):
        if (folder / name).is_file() and (folder / name).read_bytes() != (pristine / name).read_bytes():
            return f"{name} differs"
    if (folder / "provenance/starts.json").exists():
        json.loads((folder / "provenance/starts.json").read_text())
    result, reference = (json.loads((each / "result.json").read_text()) for each in (folder, pristine))
    return None if result["metrics"] == reference["metrics"] else "other metrics"


@pytest.fixture(scope="module")
def right(world: Path) -> dict[str, str]:
    """What a verb prints for the run as it was."""
    return {}


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_damaged_file_of_a_run(name: str, verb: str, right: dict[str, str]) -> None:
    other, problems = contents(OTHER), []
    if verb not in right:
        code, right[verb], err = typed(*VERBS[verb])
        assert code == (2 if verb == "report" else 0), right[verb] + err
        for left in ("reproduced", "exported"):
            shutil.rmtree(left, ignore_errors=True)
        restore(RUN)
    for damage in (half, replace_by_a_folder) if verb == "train" else DAMAGES:  # it reads what resume reads
        with damaged(RUN / name, damage):
            answer = typed(*VERBS[verb])
            problem = problem_of(answer, ("checkpoints", Path(name).name) if verb != "report" else (str(RUN),))
            if problem is None and answer[0] == 0:
                if verb in ("train", "resume"):
                    problem = wrong_run(RUN)
                elif verb == "doctor":
                    problem = None if (name, damage) in NOT_SEEN_BY_DOCTOR else "not seen"
                elif verb in ("predict", "evaluate", "export"):
                    problem = None if answer[1].splitlines() == right[verb].splitlines() else "another result"
            if contents(OTHER) != other:
                problem = "another run was changed"
        for left in ("reproduced", "exported"):
            shutil.rmtree(left, ignore_errors=True)
        if problem:
            problems.append(f"{damage.__name__}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize(
    "name", [name for name in RUN_FILES if name not in ("result.json", "mlflow.json", "model.keras")]
)
def test_a_damaged_file_of_a_run_that_is_continued(name: str) -> None:
    other, problems = contents(OTHER), []
    for damage in DAMAGES:
        with damaged(HALF / name, damage):
            answer = typed("resume", str(HALF))
            problem = problem_of(answer, ("checkpoints", Path(name).name))
            if problem is None and answer[0] == 0:
                problem = wrong_run(HALF)
                # What is written again from the checkpoint, or is a record that may be shorter, needs no word.
                # The rows are written again from the checkpoint; the list of overrides is left as it is.
                silent = name in ("metrics.csv", "overrides.yaml") or damage is delete
                if not silent and Path(name).stem not in answer[1] + answer[2]:
                    problem = "not a word about it"
            if contents(OTHER) != other:
                problem = "another run was changed"
        if problem:
            problems.append(f"{damage.__name__}: {problem}")
    assert not problems, "\n".join(problems)


@pytest.mark.usefixtures("_fast")
def test_a_run_that_lost_its_configuration_is_not_taken_for_a_new_one() -> None:
    """A command that is refused for another reason removes a new folder, never one that holds a run."""
    before = contents(HALF)
    with damaged(HALF / "config.yaml", delete):
        code, _, err = typed(*TRAIN[:-1], "run.name=half", "tracking=off", "model.depth=1")
        assert (code, len(err.splitlines())) == (2, 1), err
        assert "config.yaml" in err
        assert {name: digest for name, digest in contents(HALF).items() if name in before} == {
            name: digest for name, digest in before.items() if name not in ("config.yaml", "train.log", ".lock")
        } | {name: contents(HALF)[name] for name in ("train.log", ".lock")}


# ---------------------------------------------------------------- A sweep

SWEEP_VERBS = {
    "status": ["sweep", "status", str(SWEEP)],
    "report": ["report", str(SWEEP)],
    "best": ["predict", f"best:{SWEEP}", "image.png", "--json"],
    "resume": ["sweep", "resume", str(SWEEP), "launcher.command=[sh,again.sh]"],
}


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("verb", SWEEP_VERBS)
@pytest.mark.parametrize("name", SWEEP_FILES)
def test_a_damaged_file_of_a_sweep(name: str, verb: str) -> None:
    other, problems = contents(OTHER), []
    for damage in DAMAGES:
        with damaged(SWEEP / name, damage):
            answer = typed(*SWEEP_VERBS[verb])
            problem = problem_of(answer, ("sweep.json", Path(name).name))
            if problem is None and answer[0] == 0:
                if verb == "status":
                    problem = (
                        None if answer[1].count("finished") >= (1 if name == "0/result.json" else 2) else answer[1]
                    )
                elif verb == "report":
                    page = (SWEEP / "report.html").read_text()
                    problem = None if "0.01" in page and "0.001" in page else "the page lacks a trial"
                elif verb == "resume":
                    files = ("0/config.yaml", "0/result.json", "1/result.json")
                    problem = next((f"{each}: {answer}" for each in files if not same(SWEEP / each)), None)
                if name == "0/result.json" and damage is not delete and name not in answer[1] + answer[2]:
                    problem = f"not a word about it: {answer}"
            if contents(OTHER) != other:
                problem = "another run was changed"
        if problem:
            problems.append(f"{damage.__name__}: {problem}")
    assert not problems, "\n".join(problems)


def same(file: Path) -> bool:
    return file.is_file() and file.read_bytes() == (Path("../pristine") / file).read_bytes()


@pytest.mark.parametrize("damage", [empty, half, flip])
def test_a_damaged_sweep_does_not_stop_another(damage: Callable[[Path], None]) -> None:
    bad = shutil.copytree(SWEEP, Path("multirun/sweeps/bad"))
    try:
        damage(bad / "sweep.json")
        code, out, err = typed(*GRID[:-1], "--dry-run")
        assert code == 0, out + err
        assert (out + err).count("bad/sweep.json") == 1
        code, out, err = typed("doctor")
        assert (code, "bad/sweep.json" in out) == (1, True), out + err
    finally:
        shutil.rmtree("multirun/sweeps")


# ---------------------------------------------------------------- The store


@pytest.mark.usefixtures("_fast")
@pytest.mark.parametrize("verb", ["evaluate", "doctor", "predict", "sync"])
def test_a_damaged_store(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = json.loads((RUN / "mlflow.json").read_text())["run_id"]
    words = [word if verb != "predict" or word != str(RUN) else run_id for word in VERBS[verb]]
    monkeypatch.setattr(queries, "log_evaluation", log_evaluation)
    monkeypatch.setattr(doctor, "find_problems", find_problems)
    problems = []
    for damage in DAMAGES:
        damage(Path("mlflow.db"))
        try:
            answer = typed(*words)
        finally:
            for file in Path.cwd().glob("mlflow.db*"):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            shutil.copyfile("../pristine/mlflow.db", "mlflow.db")
            restore(RUN)
        if problem := problem_of(answer, ("mlflow.db",)):
            problems.append(f"{damage.__name__}: {problem}")
    assert not problems, "\n".join(problems)


# ---------------------------------------------------------------- Not damage, but in the way


@pytest.mark.usefixtures("_fast")
def test_what_cannot_be_written_is_printed_all_the_same() -> None:
    (RUN / "evaluation").write_text("in the way")
    try:
        code, out, err = typed("evaluate", str(RUN))
    finally:
        restore(RUN)
    assert (code, "accuracy" in out, len(err.splitlines())) == (0, True, 1), err
    assert str(RUN / "evaluation") in err
    code, _, err = typed("explain", str(RUN), "image.png", "--output", "/proc/nowhere/explained.png")
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "/proc/nowhere" in err


@pytest.mark.usefixtures("_fast")
def test_time_is_measured_by_a_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600)  # the clock was set back
    code, out, err = typed("resume", str(HALF))
    seconds = json.loads((HALF / "result.json").read_text())["total_seconds"]
    restore(HALF)
    assert (code, 0 <= seconds < 60 + seconds_since_start()) == (0, True), out + err  # the tests are the process


def test_a_sweep_in_a_folder_with_brackets_is_resumed() -> None:
    place = shutil.copytree(SWEEP, Path("swept/it's a [sweep], {copied}"))
    code, out, err = typed("sweep", "resume", str(place))
    assert (code, "2 finished" in out) == (0, True), out + err


def test_a_sweep_is_read_when_its_lock_is_taken() -> None:
    place = shutil.copytree(SWEEP, Path("swept/shared"))
    mine, theirs = SweepStudy.open(place), SweepStudy.open(place)
    theirs.acquire_lock()
    theirs.trials.append(dataclasses.replace(theirs.trials[0], job=2))
    theirs.save()
    with pytest.raises(UserError, match="is running"):
        mine.acquire_lock()
    assert theirs._lock is not None
    theirs._lock.close()
    mine.acquire_lock()
    assert mine._lock is not None
    mine._lock.close()
    assert [trial.job for trial in mine.trials] == [0, 1, 2]


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ([0.5, 0.7], OptunaState.COMPLETE),
        ([0.9, None], OptunaState.FAIL),
        ([0.9, float("nan")], OptunaState.FAIL),
        ([None, None], OptunaState.FAIL),
    ],
)
def test_a_search_gets_no_mean_over_some_of_the_seeds(results: list[float | None], state: OptunaState) -> None:
    search = OptunaSearch.__new__(OptunaSearch)
    search._trials, search._settings, search._asked = [{"jobs": [0, 1]}], SweepConfig(), set()
    found = [
        {"status": "FAILED"} if value is None else {"status": "FINISHED", "metrics": {"val/accuracy": value}}
        for value in results
    ]
    study = SimpleNamespace(trials=[0, 1], result=found.__getitem__, state=lambda job: trial_state(found[job]))
    search._sweep_study = study  # type: ignore[assignment]
    assert search._trial_outcome(0) == (state, 0.6 if state is OptunaState.COMPLETE else None)


def test_the_model_and_the_curve_are_written_again_from_the_last_checkpoint() -> None:
    """Nothing is replaced here: the weights are those of the chosen epoch, to the bit."""
    before = (RUN / "metrics.csv").read_bytes()
    weights = tnt_exp.load(RUN).get_weights()
    (RUN / "metrics.csv").write_bytes(b"")
    (RUN / "model.keras").unlink()
    code, out, err = typed(*TRAIN)
    assert code == 0, out + err
    assert "written again from the last checkpoint" in out
    assert (RUN / "metrics.csv").read_bytes() == before
    again = tnt_exp.load(RUN).get_weights()
    assert all(np.array_equal(old, new) for old, new in zip(weights, again, strict=True))
    assert "finished before" in typed(*TRAIN)[1]
    restore(RUN)
