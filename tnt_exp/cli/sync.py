"""`tnt-exp sync`: send MLflow what it missed while it could not be reached."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tnt_exp.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Deliver pending messages and return the exit code: 1 if some are left."""
    parser = argparse.ArgumentParser(prog="tnt-exp sync", description="Send MLflow what it missed. Nothing twice.")
    parser.add_argument("folder", type=Path, nargs="*", help="a run, a sweep or a folder of them (default: multirun)")
    options = parser.parse_args(list(arguments))
    from tnt_exp.errors import first_line
    from tnt_exp.tracking.mirror import Mirror
    from tnt_exp.tracking.record import is_tracked

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
        lines += [f"pending: {first_line(error)} ({mirror.reference.get('uri')})"] if error else []
        lines += [f"MLflow refused {mirror.refused} values"] if mirror.refused else []
        lines += ["its run was deleted in MLflow: nothing is sent"] if mirror.deleted else []
        if lines:
            print(f"{folder}: {', '.join(lines)}")
        left = left or bool(error or mirror.refused)
    if not left:
        print("MLflow has everything")
    return int(left)
