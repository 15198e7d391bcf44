"""`tnt-exp sync`: send MLflow what it missed while it could not be reached, or copy runs to another store."""

from collections.abc import Sequence
from pathlib import Path

from tnt_exp.cli import ArgumentParser
from tnt_exp.config.validation import store_problem
from tnt_exp.errors import UserError, first_line
from tnt_exp.tracking.record import is_tracked


def main(arguments: Sequence[str]) -> int:
    """Deliver what is pending, or copy, and return the exit code: 1 if some is left."""
    parser = ArgumentParser(prog="tnt-exp sync", description="Send MLflow what it missed. Nothing twice.")
    parser.add_argument(
        "folder", type=Path, nargs="*", default=[], help="a run, a sweep or a folder of them (default: multirun)"
    )
    parser.add_argument("--to", metavar="URI", help="copy all runs that have ended to this store instead")
    parser.add_argument("--uri", help="with --to: the store to copy from (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    if options.to is not None:
        return _copy(options.uri, options.to, options.folder)
    if options.uri is not None:
        raise UserError("--uri: expected with --to=URI, received alone; a folder knows its store. Leave it out.")
    from tnt_exp.tracking.mirror import Mirror

    given = options.folder or [Path("multirun")]
    for folder in given:
        if not folder.is_dir():
            raise UserError(f"{folder}: expected the folder of a run, of a sweep or of several, received none.")
    found = {folder.resolve() for each in given for folder in [each, *each.rglob("*/")] if is_tracked(folder)}
    left = False
    for folder in sorted(found):
        mirror = Mirror(folder, packages=True)
        error = mirror.sync()
        lines = [f"{mirror.sent} values sent"] if mirror.sent else []
        lines += [f"pending: {first_line(error)} ({mirror.reference.get('uri', 'not asked')})"] if error else []
        lines += [f"MLflow refused {mirror.refused} values"] if mirror.refused else []
        lines += ["its run was deleted in MLflow: nothing is sent"] if mirror.deleted else []
        if lines:
            print(f"{folder}: {', '.join(lines)}")
        left = left or bool(error or mirror.refused)
    if not left:
        print("MLflow has everything")
    return int(left)


def _copy(source: str | None, target: str, folders: Sequence[Path]) -> int:
    if folders:
        raise UserError(f"--to: expected no folders (whole stores are copied), received {folders[0]}; leave it out.")
    for flag, uri in (("--to", target), ("--uri", source)):
        if uri is not None and (problem := store_problem(uri)):
            raise UserError(f"{flag}: {problem}")
    from tnt_exp.tracking.client import resolve_tracking_uri
    from tnt_exp.tracking.store_copy import copy_runs

    source, target = resolve_tracking_uri(source), resolve_tracking_uri(target)
    if source == target:
        raise UserError(f"--to: expected another store than the one to copy from, received the same, {target}.")
    count = copy_runs(source, target, print)
    parts = [f"{count.copied} runs copied from {source} to {target}", f"{count.present} were there"]
    parts += [f"{count.in_progress} left out: they or runs of their sweep have not ended"] * bool(count.in_progress)
    parts += [f"{count.failed} failed"] * bool(count.failed)
    parts += [f"stopped: {count.error}; repeat the command to continue"] * bool(count.error)
    print("; ".join(parts))
    return int(bool(count.failed or count.error))
