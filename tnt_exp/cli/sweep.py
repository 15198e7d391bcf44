"""`tnt-exp sweep`: show the state of a sweep, and continue it."""

import os
from collections.abc import Sequence
from pathlib import Path

from tnt_exp.cli import ArgumentParser
from tnt_exp.config.overrides import quote
from tnt_exp.errors import UserError
from tnt_exp.sweeps import summary
from tnt_exp.sweeps.study import SweepStudy


def main(arguments: Sequence[str]) -> int:
    """Run `tnt-exp sweep` and return its exit code."""
    parser = ArgumentParser(prog="tnt-exp sweep", description="Show the state of a sweep, and continue it.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    status = verbs.add_parser("status", help="all trials of a sweep: state, objective, time, failure")
    status.add_argument("folder", type=Path)
    resume = verbs.add_parser("resume", help="continue a sweep that was interrupted")
    resume.add_argument("folder", type=Path)
    resume.add_argument(
        "overrides", nargs="*", default=[], help="changed settings: sweep.rerun=failed launcher.slots=4 ..."
    )
    options = parser.parse_args(list(arguments))
    study = SweepStudy.open(options.folder)
    if options.verb == "status":
        print(summary.trials_summary(study))
        ended = study.data["ended"] is not None
        state = "running" if study.is_running() else "ended" if ended else "interrupted"
        print(f"sweep {study.id} ({state}): {summary.state_counts(study)}")
        return 0
    return _resume(study, options.overrides)


def _resume(study: SweepStudy, overrides: Sequence[str]) -> int:
    from tnt_exp.cli.train import sweep
    from tnt_exp.sweeps.search_space import to_hydra_overrides

    config_dir = study.data["config_dir"]
    os.chdir(study.cwd)
    place = f"hydra.sweep.dir={quote(str(study.folder))}"
    changed = to_hydra_overrides(overrides, config_dir)
    for text, translated in zip(overrides, changed, strict=True):
        if not translated.lstrip("+~").startswith(("hydra.", "hydra/", "sweep@hydra.")):
            raise UserError(f"{text}: expected sweep.KEY=VALUE or launcher.KEY=VALUE; the trials keep their settings.")
    arguments = [*study.data["command"], *changed, place]
    if study.data["search"]:
        # The trials depend on it, while the number of slots may change.
        arguments.append(f"hydra.sweeper.parallel={study.data['search']['parallel']}")
    return sweep(arguments, config_dir)
