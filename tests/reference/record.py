"""Record the reference of tests/test_reference.py anew: python tests/reference/record.py

This is right only where a commit changes values on purpose, because a fault is fixed: the commit that fixes it
records them and says in its message which values change and why. It is wrong after a refactoring: there a difference
is a fault of the refactoring. It is also right, with no other change in the commit, for another machine or other
versions of the packages, where the commit before passed the test by value.

Each run is made by its command in a temporary folder, on TensorFlow and (digits) on JAX, and of what it leaves
only the files are kept that evaluating, predicting, continuing and reporting need. They hold no path of the machine.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reference.runs import (
    COMMANDS,
    FOLDER,
    HASHES,
    POINTS,
    STOPPED,
    command,
    hashes,
    machine,
    predictions,
    run_folder,
    tnt_exp,
    write_digits,
    write_photos,
)

_KEPT = ("config.yaml", "overrides.yaml", "result.json", "metrics.csv", "checkpoints/*", "provenance/starts.json")
_ENVIRONMENT = ("KERAS_BACKEND", "XLA_FLAGS")


def main() -> None:
    """Make all runs, and replace what is kept of them."""
    found = {"machine": machine(), "runs": {}}
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)
        write_photos(cwd)
        write_digits(cwd)
        for run, arguments in COMMANDS.items():
            print(f"recording {run}", flush=True)
            tnt_exp(cwd, *arguments)
        for run in (*(name for name in COMMANDS if name != "sweep"), *POINTS):
            found["runs"][run] = hashes(run_folder(cwd, run))
            _keep(cwd, run, model=run in ("digits", "photos"))
        shutil.copy(cwd / "sweep/sweep.json", FOLDER / "sweep/sweep.json")
        _make_neutral(FOLDER / "sweep/sweep.json", cwd)
        found["predictions"] = predictions(
            tnt_exp(cwd, "predict", "multirun/runs/digits", "files", "--top", "10", "--json")
        )
    with tempfile.TemporaryDirectory() as name:
        print(f"recording {STOPPED}", flush=True)
        _stop(Path(name))
        _keep(Path(name), "digits", into=STOPPED)
    HASHES.write_text(json.dumps(found, indent=1) + "\n")
    size = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    print(f"{size / 1e6:.2f} MB in {FOLDER}")


def _stop(cwd: Path) -> None:
    """Begin the digits run in `cwd`, and stop it by SIGTERM in its second epoch, of eight steps each."""
    process = subprocess.Popen(command("digits"), cwd=cwd, stdout=subprocess.DEVNULL)
    checkpoints = run_folder(cwd, "digits") / "checkpoints"
    while not any(file.stem >= "step-00000010" for file in checkpoints.glob("step-*.json")):
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    (step,) = (int(file.stem.removeprefix("step-")) for file in checkpoints.glob("step-*.json"))
    assert 9 < step < 15, f"expected a stop in the second epoch, received one at step {step}; record again"


def _keep(cwd: Path, run: str, into: str | None = None, model: bool = False) -> None:
    """Replace a kept run folder by the files of a new one that are needed."""
    source, target = run_folder(cwd, run), FOLDER / (into or run)
    shutil.rmtree(target, ignore_errors=True)
    for pattern in (*_KEPT, *(["model.keras"] if model else [])):
        for file in source.glob(pattern):
            kept = target / file.relative_to(source)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, kept)
    _make_neutral(target / "provenance/starts.json", cwd)


def _make_neutral(file: Path, cwd: Path) -> None:
    """Rewrite a JSON file of a run without what only says where it was made: paths, host, other packages."""
    text = file.read_text().replace(str(cwd.resolve()), ".")
    data = json.loads(text)
    for start in data if isinstance(data, list) else []:
        start["command"] = ["tnt-exp", *start["command"][1:]]
        start |= {"host": "host", "system": start["system"].partition("-")[0]}
        start["packages"] = {name: start["packages"][name] for name in machine()["packages"]}
        environment = start["environment"]
        start["environment"] = {name: environment[name] for name in _ENVIRONMENT if name in environment}
    file.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.pop("KERAS_BACKEND", None)
    main()
