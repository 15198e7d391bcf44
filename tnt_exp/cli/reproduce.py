"""`tnt-exp reproduce`: run a finished run again in a new folder, and compare."""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tnt_exp import provenance
from tnt_exp.atomic_files import read_json
from tnt_exp.cli import ArgumentParser
from tnt_exp.cli.resume import chdir_to_start_dir
from tnt_exp.cli.run import configure_logging
from tnt_exp.config.compose import load_config, run_folder
from tnt_exp.config.trainer import Distributed, Resume
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.find import find_run_folder
from tnt_exp.preflight import preflight
from tnt_exp.run import damaged_files, run_experiment
from tnt_exp.run_folder import RunFolder, first_difference


def main(arguments: Sequence[str]) -> int:
    """Run again, compare, and return the exit code: 0 equal to the bit, 1 different or failed."""
    parser = ArgumentParser(
        prog="tnt-exp reproduce",
        description="Run a finished run again, as it was configured, in a new folder; compare curves, final metrics, "
        "weights and optimizer bit for bit. Equal bits can be expected on the same machine; on a GPU with "
        "trainer.deterministic=true.",
    )
    parser.add_argument("run", help="a run folder, or an MLflow run id")
    parser.add_argument("--output", type=Path, help="the new folder (default: NAME_reproduced in multirun/runs)")
    parser.add_argument("--uri", help="tracking store to ask for an id (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    folder = find_run_folder(options.run, options.uri)
    typed = shlex.quote(str(folder))
    config, result = load_config(folder / "config.yaml"), read_json(folder / "result.json") or {}
    if config.trainer.distributed is Distributed.auto:
        raise UserError(
            f"{folder}: expected a run of one process, received one with trainer.distributed=auto, which is not "
            "reproduced by this command. Train it again under another run.name."
        )
    if result.get("status") != "FINISHED":
        raise UserError(
            f"{folder}: expected a finished run, received one whose result.json does not say so. Continue it with: "
            f"tnt-exp resume {typed}"
        )
    for file in damaged_files(RunFolder(folder, create=False)):
        raise UserError(f"{file}: lost or damaged, and is compared. tnt-exp resume {typed} may write it again.")
    target = options.output.resolve() if options.output else None
    if target is not None and target.exists():
        raise UserError(f"--output: expected a new folder, received the existing {target}.")
    chdir_to_start_dir(folder)
    preflight(config)
    then = (provenance.read(folder) or [{}])[-1]
    known = provenance.differences(then, provenance.start())
    for line in known:
        print(f"differs from the original: {line}")
    target = target or Path("multirun/runs").resolve() / run_folder(f"{folder.name}_reproduced", Resume.never, "")
    target.mkdir(parents=True)
    configure_logging(target)
    if (folder / "overrides.yaml").is_file():
        shutil.copyfile(folder / "overrides.yaml", target / "overrides.yaml")
    tags = {"reproduces": result.get("mlflow_run_id") or str(folder)}
    # On any machine what was chosen there, as a run does that is resumed.
    config = replace(config, trainer=config.trainer.with_precision(provenance.recorded_precision(folder)))
    code = run_experiment(config, folder=str(target), tags=tags)
    if code:
        return code
    found = first_difference(target, folder)
    if found is None:
        rows = (target / "metrics.csv").read_text().count("\n") - 1
        print(f"equal, bit for bit: {rows} epochs, final metrics, weights and optimizer of {folder}")
        return 0
    for line in [line for line in provenance.differences(then, provenance.read(target)[-1]) if line not in known]:
        print(f"differs from the original: {line}")
    print(f"different, first in {found}")
    return 1
