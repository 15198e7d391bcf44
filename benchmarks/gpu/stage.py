"""What the stages share: a time limit, commands that end with it, and a JSON file that is written as they go."""

import datetime
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("jax", "tensorflow", "torch")  # in the order in which a stage prefers them
SECONDS = {"check": 240, "speed": 360, "train": 420, "page": 60}  # time limits on a GPU
CPU_FACTOR = 4  # a processor is given so many times as long, for work that is scaled down


@dataclass(frozen=True)
class Answer:
    """How a command ended.

    Attributes:
        code: Exit code; None: it was ended at its time limit.
        seconds: How long it ran.
        output: The end of what it printed, standard error included.
    """

    code: int | None
    seconds: float
    output: str

    def last_line(self) -> str:
        """The last line that is not empty."""
        return last_line(self.output)

    def why(self) -> str:
        """One line that says how it failed."""
        if self.code is None:
            return "ended at the time limit"
        reasons = [line for line in self.output.splitlines() if re.search(r"[Ee]rror|failed|expected", line)]
        return f"exit code {self.code}: {(reasons[-1].strip() if reasons else self.last_line())[:300]}"


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@dataclass
class Stage:
    """One stage: where it writes, and how long it may take.

    Attributes:
        name: "check", "speed" or "train".
        output: Folder of the JSON files.
        data: Folder with `digits.npz` and CIFAR-100, as `pack` brings them; None: the packages' own.
        backends: Backends of Keras that are used.
        small: Whether the work is scaled down for a processor.
        seconds: The time limit.
        command: What was typed.
    """

    name: str
    output: Path
    data: Path | None
    backends: Sequence[str]
    small: bool
    seconds: float
    command: str
    record: dict[str, Any] = field(default_factory=dict)
    _begin: float = field(default_factory=time.monotonic)

    @property
    def file(self) -> Path:
        """Where the stage's figures are."""
        return self.output / f"{self.name}.json"

    @property
    def left(self) -> float:
        """Seconds until the time limit."""
        return self.seconds - (time.monotonic() - self._begin)

    def start(self, **facts: Any) -> None:
        """Begin the record; figures of an earlier call on the same hardware are kept under `items`."""
        earlier = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.record = {
            "stage": self.name,
            "command": self.command,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "hardware": hardware(),
            "versions": versions(),
            "scale": "small" if self.small else "full",
            "limit_seconds": self.seconds,
            **facts,
            "items": {},
        }
        if all(earlier.get(key) == self.record[key] for key in ("hardware", "versions", "scale")):
            self.record["items"] = earlier["items"]
        self.write()

    def add(self, name: str, /, **values: Any) -> None:
        """Record an item, print its line and write the file."""
        self.record["items"][name] = values
        self.write()
        shown = {key: value for key, value in values.items() if isinstance(value, str | int | float | bool)}
        print(
            f"{self.name}: {name}: " + ", ".join(f"{key} {_short(value)}" for key, value in shown.items()), flush=True
        )

    def write(self) -> None:
        """Write the file whole; a reader never sees half of it."""
        self.record["seconds"] = round(self.seconds - self.left, 1)
        self.output.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".tmp")
        beside.write_text(json.dumps(self.record, indent=1) + "\n")
        beside.replace(self.file)

    def run(self, command: Sequence[str], *, seconds: float | None = None, **environment: str) -> Answer:
        """Run a command of this checkout until it ends, or until its limit or the stage's is reached."""
        return run(command, min(seconds or self.left, self.left), environment)


def run(command: Sequence[str], seconds: float, environment: Mapping[str, str], cwd: Path = ROOT) -> Answer:
    """Run a command in a process group of its own, which is ended at the limit."""
    begin = time.monotonic()
    with open_process(command, environment, cwd) as process:
        try:
            output, _ = process.communicate(timeout=max(seconds, 0.1))
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            end_group(process, signal.SIGKILL)
            output, _ = process.communicate()
            code = None
    return Answer(code, round(time.monotonic() - begin, 2), output[-4000:])


def open_process(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path = ROOT, **options: Any
) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, with this checkout first on Python's path."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        start_new_session=True,
        text=True,
        **given,
    )


def end_group(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal to a process of `open_process` and to what it has started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def python(*arguments: str) -> list[str]:
    """A command of this interpreter."""
    return [sys.executable, *arguments]


def installed(*modules: str) -> bool:
    """Whether modules can be imported; imports nothing."""
    return all(importlib.util.find_spec(module) for module in modules)


def hardware() -> dict[str, Any]:
    """The processor, and the NVIDIA GPUs that the driver names."""
    from benchmarks.decoding import processor

    found: dict[str, Any] = {"cpu": processor(), "cores": len(os.sched_getaffinity(0)), "gpus": []}
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True)
        for line in answer.stdout.splitlines() if answer.returncode == 0 else []:
            name, memory, driver = (part.strip() for part in line.split(","))
            found["gpus"].append({"name": name, "memory_mib": memory, "driver": driver})
    return found


def versions() -> dict[str, str]:
    """Of Python and of what computes."""
    import importlib.metadata

    found = {"python": platform.python_version()}
    for name in ("keras", "jax", "jaxlib", "tensorflow", "torch", "timm", "numpy", "mlflow"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
