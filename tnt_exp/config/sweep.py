"""How many runs are run as one sweep, and what each may use. Kept under `hydra:`, since it is no part of a run."""

from dataclasses import dataclass, field
from enum import Enum

from tnt_exp.config.field import config_field


class Method(Enum):
    """How points are chosen."""

    grid = "grid"  # every combination
    random = "random"  # drawn independently
    bayes = "bayes"  # drawn where earlier points were good (tree-structured Parzen estimator)


class Direction(Enum):
    """Which objective is better."""

    maximize = "maximize"
    minimize = "minimize"


class OnInvalid(Enum):
    """What a point that cannot run does to a sweep."""

    stop = "stop"  # nothing is run
    skip = "skip"  # the others are run


class Rerun(Enum):
    """Which points that ended are run again."""

    nothing = "nothing"
    failed = "failed"


@dataclass
class SweepConfig:
    """What is run: `sweep.KEY=VALUE` on the command line, `conf/sweep/*.yaml`."""

    _target_: str = "hydra_plugins.tnt_exp_sweep.Sweeper"
    method: Method = config_field(Method.grid, "how points are chosen")
    space: dict[str, str] = field(
        default_factory=dict,
        metadata={"doc": "swept keys and their values, as on the command line; the command line wins"},
    )
    objective: str | None = config_field(None, "metric of result.json; null: val/accuracy, or test/accuracy without it")
    direction: Direction = config_field(Direction.maximize, "which objective is better")
    trials: int = config_field(20, "points of a search (random, bayes)", least=1)
    seed: int = config_field(0, "seed of a search", least=0)
    parallel: int | None = config_field(
        None, "points of a search that are under way at once; null: the slots of the local launcher, else 1", least=1
    )
    pruning: bool = config_field(False, "stop a search's point that is worse than the median at the same epoch")
    pruning_epochs: int = config_field(3, "epochs before a point may be stopped", least=0)
    on_invalid: OnInvalid = config_field(OnInvalid.stop, "what a point that cannot run does to the sweep")
    rerun: Rerun = config_field(Rerun.nothing, "which points that ended are run again")
    retries: int = config_field(0, "times a point that failed is started again, in its folder", least=0)
    fail_fast: bool = config_field(False, "stop the sweep at the first failure")
    dry_run: bool = config_field(False, "show the points and stop (--dry-run)")


@dataclass
class LauncherConfig:
    """Where it is run: `launcher.KEY=VALUE` on the command line. This one: processes of this machine."""

    _target_: str = "hydra_plugins.tnt_exp_sweep.LocalLauncher"
    slots: int | None = config_field(None, "points run at once; null: one a GPU, or one", least=1)
    gpus: int | None = config_field(None, "GPUs to hand out, one a slot; null: all there are", least=0)
    threads: int | None = config_field(None, "CPU threads of a point; null: the cores shared out", least=1)
    timeout: float | None = config_field(None, "seconds a point may take; null: no limit", above=0)
    memory: float | None = config_field(None, "resident memory a point may take, GiB; null: no limit", above=0)
    command: list[str] | None = config_field(None, "what runs a point, its folder appended; null: tnt-exp run")
