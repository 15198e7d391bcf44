"""`tnt-exp doctor`: find problems of runs and stores, say how to fix them, and fix them with `--fix`."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp import atomic_files
from tnt_exp.config.compose import load_config
from tnt_exp.errors import UserError, first_line
from tnt_exp.run import damaged_files
from tnt_exp.run_folder import RunFolder
from tnt_exp.sweeps.study import STUDY_FILE, SweepStudy

if TYPE_CHECKING:
    from tnt_exp.tracking.doctor import Finding

_RECORDS = ("config.yaml", "result.json", STUDY_FILE)  # of a run and of a sweep


def main(arguments: Sequence[str]) -> int:
    """Look for problems, fix them if asked to, and return the exit code: 1 if a problem is left."""
    parser = argparse.ArgumentParser(
        prog="tnt-exp doctor",
        description="Find runs marked RUNNING whose process is dead, runs in the experiment Default by mistake, lost "
        "artifacts, an older file store, stale locks and partly written files.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), help="where multirun/ is (default: here)")
    parser.add_argument("--uri", help="tracking store (default: mlflow.db in the folder)")
    parser.add_argument("--fix", action="store_true", help="repair what is found")
    options = parser.parse_args(list(arguments))
    if not options.folder.is_dir():
        raise UserError(f"{options.folder}: expected the folder in which multirun/ is, found none.")
    os.chdir(options.folder)
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
        for file in damaged_files(RunFolder(folder)):
            yield Finding(f"{file} is lost or damaged", f"tnt-exp resume {folder} writes it again", None)


def _leftovers(folder: Path) -> Iterator["Finding"]:
    """The lock and the partly written files of a run folder that nobody uses."""
    from tnt_exp.tracking.doctor import Finding

    file = folder / ".lock"
    owner, parts = atomic_files.lock_owner(file), atomic_files.partial_files(folder)
    if not owner and not parts:
        return
    if not atomic_files.is_unlocked(file):
        return  # in use

    def fix() -> None:
        held = atomic_files.acquire_lock(file)
        if held is not None:
            atomic_files.remove_paths(atomic_files.partial_files(folder))
            atomic_files.release_lock(held)

    if owner:
        yield Finding(f"{file} is a stale lock of {owner}, which is dead", "empty it", fix)
    if parts:
        names = ", ".join(part.name for part in parts)
        yield Finding(f"{folder} has partly written files: {names}", "remove them", fix)
