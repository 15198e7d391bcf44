"""`tnt-exp sync`: send MLflow what it missed while it could not be reached."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tnt_exp.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Deliver pending messages and return the exit code: 1 if some are left."""
    parser = argparse.ArgumentParser(
        prog="tnt-exp sync", description="Send MLflow what it missed. Nothing is logged twice."
    )
    parser.add_argument("folder", type=Path, nargs="*", help="a run, a sweep or a folder of them (default: multirun)")
    options = parser.parse_args(list(arguments))
    from tnt_exp.errors import first_line
    from tnt_exp.tracking.outbox import FOLDER, MESSAGES, Outbox
    from tnt_exp.tracking.uploader import sync

    given = options.folder or [Path("multirun")]
    for folder in given:
        if not folder.is_dir():
            raise UserError(f"{folder}: expected the folder of a run, of a sweep or of several, received none.")
    found = dict.fromkeys(file.parent.parent for folder in given for file in folder.rglob(f"{FOLDER}/{MESSAGES}"))
    pending = 0
    for folder in sorted(found):
        before = Outbox(folder).pending_count()
        if before == 0:
            continue
        error = sync(folder.resolve())
        after = Outbox(folder).pending_count()
        print(
            f"{folder}: {before - after} messages delivered"
            + (f", {after} pending: {first_line(error)}" if error else "")
        )
        pending += after
    if not pending:
        print("MLflow has everything")
    return int(bool(pending))
