"""`tnt-exp train`: compose, check, and hand over to Hydra to run once or many times."""

import sys
from collections.abc import Sequence

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tnt_exp import data
from tnt_exp.config import InputError, rules
from tnt_exp.config.compose import CONFIG_NAME, compose, conf_dir, parse, register, to_config
from tnt_exp.config.schema import Config
from tnt_exp.training import device


def main(arguments: Sequence[str]) -> int:
    """Run `tnt-exp train` and return its exit code.

    Every point is composed and checked first, before anything slow is imported.
    """
    register()
    flags = get_args_parser().parse_args(list(arguments))
    if flags.experimental_rerun:
        raise InputError("--experimental-rerun: expected no such flag (it would load a pickle); repeat the command.")
    if flags.config_name or flags.config_path:
        raise InputError("--config-name, --config-path: expected --config-dir=FOLDER with groups of your own.")
    for point in points(flags.overrides, multirun=flags.multirun):
        check(compose(point, flags.config_dir))

    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=CONFIG_NAME)
    def task(cfg: DictConfig) -> float | None:
        from tnt_exp.run import run

        hydra_config = HydraConfig.get()
        outcome = run(
            to_config(cfg),
            folder=hydra_config.runtime.output_dir,
            overrides=list(hydra_config.overrides.task),
            sweep_folder=hydra_config.sweep.dir if hydra_config.mode is RunMode.MULTIRUN else None,
        )
        codes.append(outcome.exit_code)
        return outcome.objective

    sys.argv = ["tnt-exp train", *arguments]  # hydra.main reads its arguments there
    task()
    return max(codes, default=0)


def points(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """The override lists that will run: one, or each point of the grid."""
    if not multirun:
        return [list(overrides)]
    parsed = [parse(override) for override in overrides]
    if any(override.is_sweep_override() and not override.is_discrete_sweep() for override in parsed):
        # interval(...) is for a search, whose points are not known yet: check what is fixed.
        return [[text for text, override in zip(overrides, parsed, strict=True) if not override.is_sweep_override()]]
    # A list chosen for a group is Hydra's own way to spell a sweep over the group's options.
    return BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]


def check(config: Config) -> None:
    """Everything that can be found without reading data or importing TensorFlow.

    Raises:
        InputError: The configuration cannot run.
    """
    facts = data.facts(config.dataset)
    rules.check(config, channels=facts.channels, train_images=facts.train)
    data.check(config.dataset)
    device.check(config.trainer)
