"""`tnt-exp compare`: show what differs between runs, and whether a difference is significant."""

import json
from collections.abc import Sequence
from pathlib import Path

from tnt_exp.cli import ArgumentParser
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.comparison import compare


def main(arguments: Sequence[str]) -> int:
    """Compare and return the exit code."""
    parser = ArgumentParser(
        prog="tnt-exp compare",
        description="What differs in configuration, data, versions and machine, and the final metrics. Runs that "
        "differ in seed or fold only are a group: mean, deviation, and the p value of its difference from the first.",
    )
    parser.add_argument("runs", nargs="+", help="run folders, names, MLflow run ids, sweeps, or folders of runs")
    parser.add_argument("--metric", action="append", help="a metric to show instead of the usual ones (repeatable)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves over each other, as PNG")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the curves")
    parser.add_argument("--json", action="store_true", help="print everything, with all metrics, as JSON")
    parser.add_argument("--uri", help="tracking store to ask for an id (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    if options.picture and options.picture.suffix != ".png":
        raise UserError(f"--picture={options.picture}: expected a name that ends in .png, received another.")
    found = compare(*options.runs, metrics=options.metric, uri=options.uri)
    if options.picture:
        found.draw(options.picture)
    if options.html:
        options.html.write_text(found.html(), encoding="utf-8")
    print(json.dumps(found.to_json(), indent=2) if options.json else found)
    return 0
