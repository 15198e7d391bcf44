"""`tnt-exp doctor`: find problems of runs and stores, say how to fix them, and fix them with `--fix`."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tnt_exp import __version__, atomic_files, provenance
from tnt_exp.atomic_files import read_json
from tnt_exp.cli import ArgumentParser
from tnt_exp.config.compose import load_config
from tnt_exp.errors import UserError, first_line
from tnt_exp.formatting import format_bytes
from tnt_exp.hardware import cpu_count
from tnt_exp.run import damaged_files
from tnt_exp.run_folder import RunFolder
from tnt_exp.sweeps.study import STUDY_FILE, SweepStudy

if TYPE_CHECKING:
    from tnt_exp.tracking.doctor import Finding

_SHORT_TRAINING = ("trainer.epochs=3", "tracking=off", "run.name=report")
_RECORDS = ("config.yaml", "result.json", STUDY_FILE)  # of a run and of a sweep


def main(arguments: Sequence[str]) -> int:
    """Look for problems, fix them if asked to, and return the exit code: 1 if a problem is left."""
    parser = ArgumentParser(
        prog="tnt-exp doctor",
        description="Find runs marked RUNNING whose process is dead, runs in the experiment Default by mistake, lost "
        "artifacts, an older file store, stale locks and partly written files.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where multirun/ is (default: here)")
    parser.add_argument("--uri", help="tracking store (default: mlflow.db in the folder)")
    parser.add_argument("--fix", action="store_true", help="repair what is found")
    parser.add_argument("--report", action="store_true", help="describe versions and machine, and try a short training")
    options = parser.parse_args(list(arguments))
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: expected the folder in which multirun/ is, found none.")
    os.chdir(options.folder)
    if options.report:
        return _report(options.uri)
    unfixed = found = 0
    for finding in _findings(options.uri):
        found += 1
        print(finding.issue)
        if options.fix and finding.fix:
            error = finding.fix()
            print(f"  failed: {first_line(error)}" if error else f"  done: {finding.fix_description}")
            unfixed += error is not None
        else:
            unfixed += 1
            print(f"  {'--fix would' if finding.fix else 'cannot be fixed here'}: {finding.fix_description}")
    if not found:
        print("no problems found")
    return int(unfixed > 0)


def _report(uri: str | None) -> int:
    """Print what a bug report should say, without a secret, and return 1 if the short training fails."""
    from tnt_exp.tracking.client import resolve_tracking_uri

    memory, free = psutil.virtual_memory().total, shutil.disk_usage(Path.cwd()).free
    start, store = provenance.start(), resolve_tracking_uri(uri)
    print(f"tnt-exp    {__version__}" + (f", commit {start['git_commit']}" if "git_commit" in start else ""))
    print(f"packages   {', '.join(f'{name} {version}' for name, version in provenance.versions().items())}")
    print(f"system     {start['system']}, {cpu_count()} cores, {format_bytes(memory)} memory")
    print(f"variables  {', '.join(f'{name}={value}' for name, value in start['environment'].items()) or 'none'}")
    print(f"store      {store.partition(':')[0]}")
    print(f"disk       {format_bytes(free)} free in the working folder", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "tnt_exp", "train", *_SHORT_TRAINING]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        result = read_json(Path(folder, "multirun/runs/report/result.json"), skip=True) or {}
    hardware = result.get("hardware", {})
    print(f"device     {', '.join(f'{key} {value}' for key, value in hardware.items()) or 'unknown'}")
    if done.returncode:
        print(f"training   failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
        return 1
    seconds = f"first step after {result['first_step_seconds']:.1f} s, {result['total_seconds']:.0f} s in all"
    accuracy, speed = result["metrics"]["test/accuracy"], result["images_per_second"]
    print(f"training   3 epochs of digits: test accuracy {accuracy:.3f}, {speed:,.0f} images/s, {seconds}")
    return 0


def _findings(uri: str | None) -> Iterator["Finding"]:
    from tnt_exp.tracking.client import resolve_tracking_uri, store_exists
    from tnt_exp.tracking.doctor import Finding, file_store, find_problems, store_file_problem

    store = resolve_tracking_uri(uri)
    if problem := store_file_problem(store):
        yield Finding(problem, "restore it from a copy, or move it away and run tnt-exp sync", None)
    elif store_exists(store):
        yield from find_problems(store)
    yield from file_store(Path.cwd())
    for folder in sorted({file.parent.resolve() for name in _RECORDS for file in Path("multirun").rglob(name)}):
        yield from _leftovers(folder)
        try:
            _ = SweepStudy.open(folder) if (folder / STUDY_FILE).exists() else load_config(folder / "config.yaml")
        except (OSError, UserError) as error:
            yield Finding(str(error), "restore it from a copy", None)
        for file in damaged_files(RunFolder(folder, create=False)):
            yield Finding(
                f"{file} is lost or damaged", f"tnt-exp resume {shlex.quote(str(folder))} writes it again", None
            )


def _leftovers(folder: Path) -> Iterator["Finding"]:
    """The lock and the partly written files of a run folder that nobody uses."""
    from tnt_exp.tracking.doctor import Finding

    file = folder / ".lock"
    # That of a sweep names the process that ran it last, however it ended (`tnt_exp.sweep` reads it).
    owner = "" if (folder / STUDY_FILE).exists() else atomic_files.lock_owner(file)
    parts = atomic_files.partial_files(folder)
    if not (owner or parts) or not atomic_files.is_unlocked(file):
        return  # nothing is left, or it is in use

    def fix() -> None:
        held = atomic_files.acquire_lock(file)
        if held is not None:
            for part in atomic_files.partial_files(folder):
                atomic_files.remove_path(part)
            atomic_files.release_lock(held)

    if owner:
        yield Finding(f"{file} is a stale lock of {owner}, which is dead", "empty it", fix)
    if parts:
        names = ", ".join(part.name for part in parts)
        yield Finding(f"{folder} has partly written files: {names}", "remove them", fix)
