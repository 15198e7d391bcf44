"""`tnt-exp list`: the runs of a folder, the newest first."""

import json
import os
import shutil
import sys
from collections.abc import Sequence

from tnt_exp.atomic_files import JsonObject
from tnt_exp.cli import ArgumentParser
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.collection import Run, RunCollection, runs
from tnt_exp.finished_runs.find import RUNS
from tnt_exp.formatting import as_number, canonical_text, format_duration, format_table

_ROWS = 20
_METRICS = {"best/val/accuracy": "val acc", "test/accuracy": "test acc"}  # accuracies, by their headings


def main(arguments: Sequence[str]) -> int:
    """List runs and return the exit code."""
    parser = ArgumentParser(
        prog="tnt-exp list", description="The runs of a folder, the newest first, with the keys that vary among them."
    )
    parser.add_argument("source", nargs="?", default=RUNS, help="a folder, or an MLflow experiment (default: multirun)")
    parser.add_argument(
        "conditions", nargs="*", default=[], help="model.depth=8,12  state=FINISHED  'test/accuracy>0.9'  'name!=first'"
    )
    parser.add_argument("--limit", type=int, default=_ROWS, help=f"rows, 0: all (default {_ROWS}; with --json all)")
    parser.add_argument("--json", action="store_true", help="all values of each run, as JSON")
    parser.add_argument("--uri", help="tracking store of the experiment (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    if options.limit < 0:
        raise UserError(f"--limit={options.limit}: expected 0 (all) or a number of rows.")
    source, conditions = options.source, options.conditions
    if any(sign in source for sign in "=<>") and not os.path.exists(source):  # noqa: PTH110 (any text)
        source, conditions = RUNS, [source, *conditions]
    found = runs(source, *conditions, uri=options.uri)
    if options.json:
        print(json.dumps([_object(run) for run in found], indent=2))
    elif found:
        _print(found, options.limit)
    else:
        print(f"{source}: no such run")
    return 0


def _object(run: Run) -> JsonObject:
    return {
        "name": run.name,
        "path": str(run.path),
        "state": run.state,
        "started": run.started.isoformat() if run.started else None,
        "total_seconds": run.result.get("total_seconds"),
        "mlflow_run_id": run.result.get("mlflow_run_id"),
        "error": run.result.get("error"),
        "metrics": {name: as_number(value) for name, value in run.metrics.items()},  # JSON has no NaN
        "params": run.params,
    }


def _print(found: RunCollection, limit: int) -> None:
    """Print a table as wide as the terminal; columns that do not fit are named below it."""
    shown = found[: limit or None]
    columns = {"run": [run.name for run in shown], "state": [run.state for run in shown]}
    for name, heading in _METRICS.items():
        columns[heading] = [f"{run.metrics[name]:.4f}" if name in run.metrics else "" for run in shown]
    for key in found.varying:
        columns[key] = [canonical_text(run.params.get(key)) for run in shown]
    seconds = [run.result.get("total_seconds") for run in shown]
    columns["time"] = ["" if each is None else format_duration(each) for each in seconds]
    columns["started"] = [f"{run.started.astimezone():%Y-%m-%d %H:%M}" if run.started else "" for run in shown]
    limited = sys.stdout.isatty() or "COLUMNS" in os.environ
    room, left_out = shutil.get_terminal_size().columns if limited else sys.maxsize, []
    for name, cells in list(columns.items()):
        width = max(map(len, [name, *cells])) + 2
        if width > room + 2 and name != "run":
            left_out.append(name)
            del columns[name]
        else:
            room -= width
    print(format_table(list(columns), list(zip(*columns.values(), strict=True))))
    if left_out:
        print(f"not shown: {', '.join(left_out[:4])}{', ...' if len(left_out) > 4 else ''} (--json)")
    if len(found) > len(shown):
        print(f"{len(shown)} of {len(found)} runs; --limit 0 shows all")
