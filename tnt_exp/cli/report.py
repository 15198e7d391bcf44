"""`tnt-exp report`: write a sweep as one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from tnt_exp.cli import ArgumentParser
from tnt_exp.reports.sweep_page import render_page
from tnt_exp.sweeps import results
from tnt_exp.sweeps.study import SweepStudy


def main(arguments: Sequence[str]) -> int:
    """Write the page and return the exit code."""
    parser = ArgumentParser(
        prog="tnt-exp report", description="One HTML page of a sweep: leaderboard, pictures, failures, commands."
    )
    parser.add_argument("sweep", help="a sweep's folder, or its id in MLflow")
    parser.add_argument("--uri", help="tracking store of the id (default: mlflow.db in this folder)")
    parser.add_argument("--output", type=Path, help="file to write (default: report.html in the sweep's folder)")
    options = parser.parse_args(list(arguments))
    folder = Path(options.sweep)
    if folder.is_dir():
        sweep, output = results.load_results(SweepStudy.open(folder)), options.output or folder / "report.html"
    else:
        from tnt_exp.tracking.client import resolve_tracking_uri

        sweep = results.load_results_from_mlflow(resolve_tracking_uri(options.uri), options.sweep)
        output = options.output or Path(f"report_{sweep.id}.html")
    output.write_text(render_page(sweep), encoding="utf-8")
    print(output.resolve())
    return 0
