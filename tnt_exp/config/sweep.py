"""The settings of a sweep and of its launcher. Kept under `hydra:`, because they are not part of a run."""

from dataclasses import dataclass
from enum import Enum

from tnt_exp.config.field import config_field


class Method(Enum):
    """How trials are chosen."""

    grid = "grid"  # every combination
    zip = "zip"  # the first value of each list, then the second of each...
    random = "random"  # sampled independently
    bayes = "bayes"  # sampled where earlier trials were good (tree-structured Parzen estimator)


class Direction(Enum):
    """Which objective is better."""

    maximize = "maximize"
    minimize = "minimize"


class OnInvalid(Enum):
    """What a trial that cannot run does to a sweep."""

    stop = "stop"  # run nothing
    skip = "skip"  # run the others


class Rerun(Enum):
    """Which trials that have ended are run again."""

    nothing = "nothing"
    failed = "failed"


@dataclass
class SweepConfig:
    """What is run: `sweep.KEY=VALUE` on the command line, `conf/sweep/*.yaml`."""

    _target_: str = "hydra_plugins.tnt_exp_sweep.Sweeper"
    method: Method = config_field(Method.grid, "how trials are chosen")
    space: dict[str, str] = config_field(
        {}, "swept keys and their values, as on the command line; the command line wins"
    )
    points: str | None = config_field(
        None, "CSV file with a row of keys and a row per trial, each combined with the swept keys (grid, zip)"
    )
    subset: int | None = config_field(
        None, "run only so many of the trials of a grid, chosen at random by sweep.seed; null: all", ge=1
    )
    objective: str | None = config_field(None, "metric of result.json; null: val/accuracy, or test/accuracy without it")
    direction: Direction = config_field(Direction.maximize, "which objective is better")
    trials: int = config_field(20, "trials of a search (random, bayes)", ge=1)
    seed: int = config_field(0, "seed of a search or of sweep.subset", ge=0)
    parallel: int | None = config_field(
        None, "trials of a search that run at once; null: the slots of the local launcher, else 1", ge=1
    )
    pruning: bool = config_field(
        False, "stop a trial of a search worse than the median at its epoch; where several run, when depends on timing"
    )
    pruning_epochs: int = config_field(3, "epochs before a trial may be stopped", ge=0)
    on_invalid: OnInvalid = config_field(OnInvalid.stop, "what a trial that cannot run does to the sweep")
    rerun: Rerun = config_field(Rerun.nothing, "which trials that have ended are run again")
    retries: int = config_field(0, "how often a failed trial is retried, in its folder", ge=0)
    fail_fast: bool = config_field(False, "stop the sweep at the first failure")
    dry_run: bool = config_field(False, "show the trials and stop (--dry-run)")


@dataclass
class LauncherConfig:
    """Where it is run: `launcher.KEY=VALUE` on the command line. The default launcher: processes of this machine."""

    _target_: str = "hydra_plugins.tnt_exp_sweep.LocalLauncher"
    slots: int | None = config_field(None, "trials that run at once; null: one per GPU, or one", ge=1)
    gpus: int | None = config_field(None, "GPUs to use, one per slot; null: all of this machine", ge=0)
    threads: int | None = config_field(None, "CPU threads per trial; null: the cores divided by the slots", ge=1)
    timeout: float | None = config_field(None, "largest duration of a trial, seconds; null: no limit", gt=0)
    memory: float | None = config_field(None, "largest resident memory of a trial, GiB; null: no limit", gt=0)
    command: list[str] | None = config_field(
        None, "the command that runs a trial, without the folder; null: tnt-exp run"
    )
