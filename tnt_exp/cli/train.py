"""`tnt-exp train`: compose and validate, then let Hydra run one experiment or a sweep."""

import argparse
import errno
import re
import shutil
import sys
import textwrap
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tnt_exp.config.compose import (
    CONFIG_NAME,
    compose,
    conf_dir,
    main_hydra,
    options,
    register,
    to_config,
    to_user_error,
)
from tnt_exp.config.keys import closest_match, config_keys
from tnt_exp.config.overrides import literal_overrides, require_run_overrides
from tnt_exp.config.schema import GROUPS
from tnt_exp.config.trainer import Distributed
from tnt_exp.errors import UserError
from tnt_exp.preflight import preflight
from tnt_exp.run_folder import flat
from tnt_exp.training import distributed

_HEAD = """\
Train a Transformer in Transformer, and find the run in MLflow.

usage: tnt-exp train [FLAG ...] [GROUP=OPTION ...] [KEY=VALUE ...]

  tnt-exp train model.depth=8 optimizer.learning_rate=3e-4
  tnt-exp train experiment=cifar100_keras_example
  tnt-exp train -m model.embed_dim=48,64,96     one run per value

flags:
  -m, --multirun       run a sweep: one run per combination of values
  --dry-run            show the runs of a sweep with their cost, and stop
  --cfg job            print the composed configuration, and stop
  --config-dir FOLDER  groups of your own
  -sc install=bash     print a completion script, for
                       eval "$(tnt-exp train -sc install=bash)"
"""


def main(arguments: Sequence[str]) -> int:
    """Compose and validate before anything slow is imported; then run, and return the exit code."""
    register()
    dry_run = "--dry-run" in arguments
    try:
        flags = _parser().parse_intermixed_args([argument for argument in arguments if argument != "--dry-run"])
    except argparse.ArgumentError as error:
        raise UserError(_flag_error(str(error))) from None
    if flags.help:
        print(help_text(flags.config_dir))
        return 0
    if flags.experimental_rerun:
        raise UserError("--experimental-rerun: expected no such flag (it would load a pickle); repeat the command.")
    if flags.config_name or flags.config_path:
        raise UserError("--config-name, --config-path: expected --config-dir=FOLDER with groups of your own.")
    if flags.config_dir is not None and not Path(flags.config_dir).is_dir():
        raise UserError(f"--config-dir={flags.config_dir}: expected a folder with config groups, found none there.")
    if flags.shell_completion:
        if not re.fullmatch(r"(un)?install=(bash|zsh|fish)|query=.*", " ".join(flags.overrides)):
            raise UserError("--shell-completion: expected install=SHELL or uninstall=SHELL (bash, zsh or fish).")
        return _show(flags, flags.overrides)
    sweeping = flags.multirun or dry_run
    overrides = literal_overrides(flags.overrides, sweep=sweeping)
    if sweeping and not _is_only_shown(flags):
        from tnt_exp.sweeps.search_space import to_hydra_overrides

        overrides = to_hydra_overrides(overrides, flags.config_dir)
        return sweep([*overrides, *(["hydra.sweeper.dry_run=true"] if dry_run else [])], flags.config_dir)
    return _run_one(flags, overrides)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def _parser() -> argparse.ArgumentParser:
    parser = get_args_parser()
    parser.__class__ = _Parser  # Hydra's own parser prints a usage message of twenty lines and exits
    return parser


def _flag_error(message: str) -> str:
    """Return one line about a flag that does not exist."""
    if not (unknown := re.search(r"unrecognized arguments: --?(\S+)", message)):
        return f"{message}. `tnt-exp train --help` lists the flags."
    name, _, value = unknown[1].partition("=")
    key = closest_match(name.replace("-", "_"), [*(field.key for field in config_keys()), *GROUPS])
    hint = f"Write {key}={value or 'VALUE'}." if key else "Keys are written KEY=VALUE, without dashes."
    return f"--{unknown[1]}: expected a flag, received an unknown one. {hint}"


def _is_only_shown(flags: Namespace) -> bool:
    return bool(flags.cfg or flags.info or flags.hydra_help)


def _show(flags: Namespace, overrides: Sequence[str]) -> int:
    """Let Hydra print what the flags ask for."""
    if flags.multirun:
        raise UserError("-m: expected without --cfg, --info, --hydra-help and --shell-completion; leave one out.")
    if flags.hydra_help or flags.shell_completion:
        options = ["--hydra-help"] if flags.hydra_help else ["--shell-completion"]
        options += ["--config-dir", flags.config_dir] if flags.config_dir else []
        sys.argv = ["tnt-exp", *options, *overrides]  # hydra.main reads its arguments from there
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=CONFIG_NAME)(lambda cfg: None)()
        return 0
    try:
        if flags.cfg:
            main_hydra(flags.config_dir).show_cfg(CONFIG_NAME, list(overrides), flags.cfg, flags.package, flags.resolve)
        else:
            main_hydra(flags.config_dir).show_info(flags.info, CONFIG_NAME, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise to_user_error(error) from error
    except SystemExit:  # Hydra has printed that there is no such package
        return 2
    return 0


def _run_one(flags: Namespace, overrides: Sequence[str]) -> int:
    require_run_overrides(overrides)
    config = compose(overrides, flags.config_dir)
    preflight(config)
    if _is_only_shown(flags):
        return _show(flags, overrides)
    if config.trainer.distributed is Distributed.auto:
        distributed.validate(config.trainer.batch_size, config.trainer.devices or 1, config.augmentation.repeats)

    def task(cfg: DictConfig) -> int | Exception:
        from tnt_exp.run import run_experiment

        hydra_config = HydraConfig.get()
        folder, overrides = hydra_config.runtime.output_dir, list(hydra_config.overrides.task)
        try:
            return run_experiment(to_config(cfg), folder=folder, overrides=overrides)
        except (UserError, OSError) as error:
            return error  # if it were raised here, Hydra would print a traceback

    try:
        job = main_hydra(flags.config_dir).run(config_name=CONFIG_NAME, task_function=task, overrides=list(overrides))
    except FileNotFoundError as error:  # the task catches its own: Hydra could not create the folder
        raise PermissionError(errno.EACCES, "no folder can be created there", error.filename) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise to_user_error(error) from error
    if isinstance(job.return_value, Exception):
        raise job.return_value
    return int(job.return_value)


def sweep(overrides: Sequence[str], config_dir: str | None) -> int:
    """Run a sweep of overrides as Hydra reads them, and return the exit code; `UserError`: a trial cannot run."""
    from tnt_exp.signals import Signals, Stopped
    from tnt_exp.sweeps.executors import run_job

    register()
    try:
        with Signals().handled():
            code = main_hydra(config_dir).multirun(
                config_name=CONFIG_NAME,
                task_function=run_job,
                overrides=[f"hydra.mode={RunMode.MULTIRUN.name}", *overrides],
            )
    except Stopped as stop:
        return stop.exit_code
    except (HydraException, OmegaConfBaseException) as error:
        raise to_user_error(error) from error
    return int(code)


def help_text(config_dir: str | None = None) -> str:
    """Return the text, as wide as the terminal (at most 120 columns)."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [_HEAD, "groups (GROUP=OPTION):"]
    for group in (*GROUPS, "experiment"):
        offered = [option for option in options(group, config_dir) if not option.startswith("base_")]
        lines += _entry(group, ", ".join(offered), 15, width)
    defaults = flat(compose([], config_dir))
    lines.append("\nkeys (KEY=VALUE), with the value of a plain `tnt-exp train`:")
    for key in config_keys():
        value = defaults[key.key]
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        lines += _entry(key.key, f"{key.doc}; {key.expects} [{shown}]", 35, width)
    return "\n".join(lines)


def _entry(name: str, text: str, indent: int, width: int) -> list[str]:
    """Return a name and its text, wrapped in a column of its own."""
    first = f"  {name} ".ljust(indent)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False)
