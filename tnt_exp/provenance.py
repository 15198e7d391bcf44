"""Where a run comes from: code, packages, machine, environment."""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from tnt_exp.atomic_files import JsonObject, atomic_write, atomic_write_json, is_here, read_json
from tnt_exp.credentials import hide_passwords

FOLDER = "provenance"  # in a run folder
_STARTS = "starts.json"
_PACKAGES = ("tnt-exp", "keras", "tensorflow", "jax", "torch", "mlflow", "hydra-core", "omegaconf", "numpy")
# Variables that can change a result. Never the whole environment: it holds passwords.
_VARIABLES = ("CUDA_", "JAX_", "KERAS_", "MALLOC_", "MKL_", "NVIDIA_", "OMP_", "PYTHONHASHSEED", "TF_", "XLA_")
_SECRET = re.compile("SECRET|TOKEN|PASSW|CREDENTIAL|_KEY")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the relevant packages that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def packages() -> dict[str, str]:
    """Return the versions of all installed packages."""
    found = sorted(importlib.metadata.distributions(), key=lambda each: each.name.lower())
    return {each.name: each.version for each in found}


def git() -> dict[str, str]:
    """Return `git_commit` and `git_dirty` (true or false) of the working folder's checkout; empty outside of one."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {}
    return {"git_commit": commit.decode().strip(), "git_dirty": str(bool(changes)).lower()}


def environment() -> dict[str, str]:
    """Return the variables that can change a result; preparing a device adds to them."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}
    return {name: hide_passwords(value) for name, value in found.items() if not _SECRET.search(name)}


def start(**facts: object) -> JsonObject:
    """Return what is known about a run that starts here and now, and what the caller knows in addition."""
    diff = _git("diff", "HEAD", "--binary")
    return {
        "command": sys.argv,
        "cwd": str(Path.cwd()),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **git(),
        "git_diff": f"git-{hashlib.sha256(diff).hexdigest()[:12]}.diff" if diff else None,
        "packages": packages(),
        "environment": environment(),
    } | facts


def record(folder: Path, **facts: object) -> None:
    """Append `start` to `provenance/starts.json` of a run folder, with uncommitted changes in a file beside it.

    A start equal to the one before adds only its time.
    """
    directory, found = folder / FOLDER, start(**facts)
    directory.mkdir(exist_ok=True)
    if found["git_diff"] and not (directory / found["git_diff"]).exists():
        atomic_write(directory / found["git_diff"], _git("diff", "HEAD", "--binary") or b"")
    starts, now = read(folder), time.strftime("%Y-%m-%d %H:%M:%S%z")
    if starts and {**starts[-1], "times": None} == {**found, "times": None}:
        starts[-1]["times"].append(now)
    else:
        starts.append({**found, "times": [now]})
    atomic_write_json(directory / _STARTS, starts)


def read(folder: Path) -> list[JsonObject]:
    """Return the different starts of a run, the last one last; empty if nothing was recorded."""
    return read_json(folder / FOLDER / _STARTS, skip=True, kind=list) or []


def working_folders(folder: Path) -> list[Path]:
    """Return from where paths of a run may count: where it was started last, the project above `multirun/`."""
    found = [Path(start["cwd"]) for start in read(folder)[-1:]]
    found += [parent.parent for parent in folder.parents if parent.name == "multirun"][:1]
    return [each for each in dict.fromkeys(found) if is_here(each)]


def recorded_precision(folder: Path) -> str | None:
    """Return the precision with which a run began; None if it has not, or is older than this record."""
    hardware: JsonObject = next((start["hardware"] for start in read(folder) if start.get("hardware")), {})
    return hardware.get("precision")


def differences(then: JsonObject, now: JsonObject) -> list[str]:
    """Return what differs between two starts and can change a result, one line each."""
    lines = [
        f"{key}: {now.get(key)} (original: {then.get(key)})"
        for key in ("git_commit", "git_diff", "python", "system", "hardware", "dataset_digest")
        if key in now and now[key] != then.get(key)
    ]
    for kind in ("packages", "environment"):
        old, new = then.get(kind, {}), now.get(kind, {})
        lines += [
            f"{kind}: {name} {new.get(name)} (original: {old.get(name)})"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
    return lines


def _git(*arguments: str) -> bytes | None:
    """Return what git prints; None: it fails, or is not installed."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
