"""The Python interface to training: each run and each sweep in a child process, which has a device of its own."""

import contextlib
import math
import operator
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from enum import Enum
from html import escape
from pathlib import Path
from typing import IO, NamedTuple

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from tnt_exp.atomic_files import JsonObject, lock_owner
from tnt_exp.config import Config
from tnt_exp.config.compose import CONFIG_NAME, main_hydra, register
from tnt_exp.config.compose import compose as compose_config
from tnt_exp.config.overrides import listed, literal_overrides, quote, require_run_overrides
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.collection import Run, RunCollection, require_known, runs
from tnt_exp.formatting import as_number, format_duration
from tnt_exp.preflight import preflight
from tnt_exp.run_folder import read_metrics
from tnt_exp.sweeps.results import log_tail, objective_name
from tnt_exp.sweeps.study import STUDY_FILE, SweepStudy, list_studies
from tnt_exp.sweeps.trial import TrialState, objective_value, trial_state

Overrides = str | Sequence[str]
ConfigDir = str | os.PathLike[str] | None

_REFRESH = 0.5  # seconds
_NATIVE = re.compile(r"[IWE]0000 |WARNING: All log messages")  # lines of TensorFlow's libraries in train.log
_CHILD = """
import sys
from tnt_exp.signals import exiting
with exiting():
    from tnt_exp.sweeps.worker import exit_with_parent
    exit_with_parent()
    from tnt_exp.cli import main
    sys.argv[0] = "tnt-exp"
    sys.exit(main())
"""


class RunFailedError(RuntimeError):
    """A run or a sweep that failed; `runs` are those with a folder, the message has the last lines of the log."""

    def __init__(self, message: str, runs: RunCollection) -> None:
        super().__init__(message)
        self.runs = runs


def compose(overrides: Overrides = (), config_dir: ConfigDir = None) -> Config:
    """Return the configuration of overrides, after the checks of the command line.

        config = tnt_exp.compose(["model.depth=8", "optimizer=lion"])

    The overrides are as on the command line, `config_dir` is the folder of your own config groups. Raises `UserError`
    if a key or a value is wrong, the data are not there, or the configuration cannot run.
    """
    listed = literal_overrides(overrides)
    require_run_overrides(listed)
    config = compose_config(listed, os.fspath(config_dir) if config_dir else None)
    preflight(config)
    return config


def train(config: Config | Run | Overrides = (), config_dir: ConfigDir = None) -> Run:
    """Train as `tnt-exp train` does, and return the run.

        run = tnt_exp.train(["model.depth=8", "run.name=deep"])

    A terminal shows what the command shows, a notebook one bar. An interrupt lets the run write a checkpoint first; it
    is resumed by the same call if it has a name, and by `tnt_exp.train(run)`.

    Args:
        config: A configuration, overrides, or a run that is resumed.
        config_dir: The folder of your own config groups.

    Raises `UserError` if the input cannot be used, and `RunFailedError` if the run failed.
    """
    if isinstance(config, Run):
        folder, epochs, arguments = config.path, config.config.trainer.epochs, ["resume", str(config.path)]
    else:
        overrides = to_overrides(config) if isinstance(config, Config) else listed(config)
        composed = compose(overrides, config_dir)
        for key, given in _values(config).items() if isinstance(config, Config) else ():
            if given != (read := operator.attrgetter(key)(composed)):
                raise UserError(f"{key}: expected {read!r}, as its override is read, received {given!r}; write it so.")
        folder, epochs = _new_folder(RunMode.RUN, overrides, config_dir), composed.trainer.epochs
        arguments = ["train", *_flags(config_dir), *overrides, f"hydra.run.dir={quote(str(folder))}"]
    begin = time.monotonic()

    def progress(pid: int) -> Progress:
        there = read_metrics(folder)
        values = [f"{name} {value:.4f}" for name in ("val/accuracy", "train/loss") if (value := there.value(name))]
        spent = time.monotonic() - begin
        left = f"left {format_duration(spent / there.epoch * (epochs - there.epoch))}" if there.epoch else "starting"
        return Progress(there.epoch, epochs, ", ".join([f"epoch {there.epoch} of {epochs}", *values[:1], left]))

    child = _Child(arguments, progress)
    left = RunCollection([Run(folder)] if (folder / "config.yaml").is_file() else [])
    if child.code not in (0, 2) and not child.interrupted:
        reason = f"the process ended with exit code {child.code}"
        lines = [line for line in log_tail(folder / "train.log").splitlines() if not _NATIVE.match(line)]
        reasons = [run.result.get("error", reason) for run in left] or [reason]
        raise RunFailedError("\n".join([*reasons, *(lines or [child.output])]), left)
    child.raise_if_unusable(f"tnt_exp.train(tnt_exp.Run({str(folder)!r}))" if left else "the same call")
    return Run(folder)


def sweep(overrides: Overrides, config_dir: ConfigDir = None) -> RunCollection:
    """Run a sweep as `tnt-exp train -m` does, and return its trials.

        trials = tnt_exp.sweep(["model.depth=2,3", "seed=0,1,2", "launcher.slots=2"])

    The overrides are as on the command line, `sweep.KEY` and `launcher.KEY` too; `config_dir` is the folder of your own
    config groups. The same call continues a sweep that was interrupted. Trials that failed are reported by a warning.
    Raises `UserError` if the input cannot be used, and `RunFailedError` if no trial finished.
    """
    overrides = listed(overrides)
    place = _new_folder(RunMode.MULTIRUN, [text for text in overrides if text.startswith("hydra.sweep.")], config_dir)

    def progress(pid: int) -> Progress:
        study = _study_of(pid, place)
        if study is None:
            return Progress(0, 1, "starting")
        states = [study.state(trial) for trial in study.trials]
        name = objective_name(study)
        found = [value for each in study.trials if (value := objective_value(study.result(each), name)) is not None]
        ended = len(states) - states.count(TrialState.waiting)
        texts = [f"{ended} of {len(states)} trials"]
        texts += [f"{failed} failed"] if (failed := states.count(TrialState.failed)) else []
        texts += [f"best {name} {(max if study.maximize else min)(found):.4f}"] if found else []
        return Progress(ended, len(states), ", ".join(texts))

    child = _Child(["train", "-m", *_flags(config_dir), *overrides], progress)
    child.raise_if_unusable("the same call")
    study = _study_of(child.pid, place)
    trials = RunCollection(sorted(runs(study.folder), key=lambda run: run.job or 0) if study else [])
    ended = (TrialState.finished, TrialState.pruned)
    others = [run for run in trials if trial_state(run.result or None) not in ended]
    failed = [f"{run.name}: {run.result.get('error', run.state)}" for run in others]
    if child.code and len(failed) == len(trials):
        raise RunFailedError("\n".join(["no trial finished", *(failed or [child.output])]), trials)
    if child.code:
        warnings.warn(f"{len(failed)} of {len(trials)} trials did not finish: {'; '.join(failed)}", stacklevel=2)
    return trials


def to_overrides(config: Config) -> list[str]:
    """Return the overrides that make a configuration from the default one; raise `UserError` for an unknown key."""
    given, usual = _values(config), _values(compose_config())
    for key in given:
        require_known(key, usual, "a key of the configuration")
    texts = {key: (_override_value(value), _override_value(usual[key])) for key, value in given.items()}
    return [f"{key}={text}" for key, (text, default) in texts.items() if text != default]


def _values(section: object, prefix: str = "") -> JsonObject:
    """Return the values of a configuration by their keys, with those that were set by mistake."""
    found: JsonObject = {}
    for name, value in vars(section).items():
        found |= _values(value, f"{prefix}{name}.") if is_dataclass(value) else {prefix + name: value}
    return found


def _override_value(value: object) -> str:
    """Return a value in Hydra's grammar; a dictionary as text, since the grammar takes few characters in its keys."""
    if isinstance(value, dict):
        numbers = {str(name): as_number(str(number)) for name, number in value.items()}
        return quote(yaml.safe_dump(numbers, default_flow_style=True, allow_unicode=True, width=math.inf).strip())
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_override_value, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return quote(value) if isinstance(value, str) else value.name if isinstance(value, Enum) else str(value)


def _flags(config_dir: ConfigDir) -> list[str]:
    return ["--config-dir", os.fspath(config_dir)] if config_dir else []


def _new_folder(mode: RunMode, overrides: Sequence[str], config_dir: ConfigDir) -> Path:
    """Return the folder that Hydra would choose for a run or for a sweep, absolute."""
    register()
    running = GlobalHydra.instance().hydra
    try:
        hydra = main_hydra(os.fspath(config_dir) if config_dir else None)
        config = hydra.compose_config(CONFIG_NAME, literal_overrides(overrides), run_mode=mode).hydra
    finally:
        GlobalHydra.instance().hydra = running
    return Path(config.run.dir if mode is RunMode.RUN else config.sweep.dir).resolve()


def _study_of(pid: int, place: Path) -> SweepStudy | None:
    """Return the sweep that a process runs or ran: in the new folder, or in an older one beside it that it resumed."""
    studies = [SweepStudy.open(place)] if (place / STUDY_FILE).is_file() else list_studies(place.parent)
    return next((each for each in studies if lock_owner(each.folder / ".lock").startswith(f"process {pid} ")), None)


class Progress(NamedTuple):
    """How far a run or a sweep is."""

    done: int
    total: int
    text: str


class _Child:
    """A command of `tnt-exp` in a child process, which has ended.

    `progress` returns how far the process with an id is; `output` are the last lines that it printed, in a terminal
    those on standard error.
    """

    def __init__(self, arguments: Sequence[str], progress: Callable[[int], Progress]) -> None:
        bar = _NotebookBar() if _in_notebook() else None
        lines: deque[str] = deque(maxlen=20)
        self.interrupted, ended = False, False
        with subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD, *arguments],
            stdin=subprocess.PIPE,  # closed by the kernel when this process ends, with which the child ends
            stdout=subprocess.PIPE if bar else None,
            stderr=subprocess.STDOUT if bar else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # an interrupt of the terminal or of Jupyter must reach it once, from here
        ) as process:
            self.pid, stream = process.pid, process.stdout or process.stderr
            reader = threading.Thread(target=_read, args=(stream, lines, not bar), daemon=True)
            while not ended:
                try:
                    if reader.ident is None:  # started here: an interrupt while it starts must reach the child, too
                        reader.start()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_REFRESH)
                        ended = True
                    if bar:
                        bar.show(progress(process.pid))
                except KeyboardInterrupt:
                    self.interrupted = True
                    process.send_signal(signal.SIGINT)
                except BaseException:  # raised by a signal handler of the script: the run must not outlive the call
                    process.terminate()
                    process.wait()
                    raise
            reader.join()
        self.code, self.output = process.returncode, "\n".join(lines)

    def raise_if_unusable(self, resume: str) -> None:
        """Raise `UserError` if the input could not be used, `KeyboardInterrupt` if the process was interrupted."""
        if self.code == 2:
            raise UserError(self.output.rpartition("tnt-exp: ")[2])
        if self.interrupted and self.code:
            raise KeyboardInterrupt(f"stopped; to continue: {resume}")


def _read(stream: IO[str], lines: deque[str], echo: bool) -> None:
    for line in stream:
        lines.append(line.rstrip())
        if echo and not line.startswith("tnt-exp: "):  # an error is raised
            print(line, end="", file=sys.stderr)


def _in_notebook() -> bool:
    """Return True in a kernel of Jupyter, whose output is not a terminal."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


class _NotebookBar:
    """A bar in the output of a notebook's cell, which is replaced whenever it changes."""

    def __init__(self) -> None:
        from IPython.display import display

        self._shown: Progress | None = None
        self._handle = display({"text/plain": "starting"}, raw=True, display_id=True)

    def show(self, progress: Progress) -> None:
        """Show how far the process is."""
        if progress != self._shown:
            self._shown = progress
            bar = f'<progress value="{progress.done}" max="{progress.total}"></progress> {escape(progress.text)}'
            self._handle.update({"text/plain": progress.text, "text/html": bar}, raw=True)
