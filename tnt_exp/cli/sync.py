"""`tnt-exp sync`: tell MLflow what it missed while it was away."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tnt_exp.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Deliver what waits and return the exit code: 0 nothing is left, 1 something is."""
    parser = argparse.ArgumentParser(
        prog="tnt-exp sync", description="Tell MLflow what it missed. What it has is not told twice."
    )
    parser.add_argument("folder", type=Path, nargs="*", help="a run, a sweep or a folder of them (default: multirun)")
    options = parser.parse_args(list(arguments))
    from tnt_exp.errors import first_line
    from tnt_exp.tracking.outbox import FOLDER, MESSAGES, Outbox
    from tnt_exp.tracking.uploader import sync

    given = options.folder or [Path("multirun")]
    for folder in given:
        if not folder.is_dir():
            raise UserError(f"{folder}: expected the folder of a run, of a sweep or of many, received none.")
    found = dict.fromkeys(file.parent.parent for folder in given for file in folder.rglob(f"{FOLDER}/{MESSAGES}"))
    left = 0
    for folder in sorted(found):
        before = Outbox(folder).pending_count()
        if before == 0:
            continue
        error = sync(folder.resolve())
        after = Outbox(folder).pending_count()
        print(
            f"{folder}: {before - after} messages delivered" + (f", {after} wait: {first_line(error)}" if error else "")
        )
        left += after
    if not left:
        print("MLflow has everything")
    return int(bool(left))
