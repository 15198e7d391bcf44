"""The local launcher: processes of this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig

from tnt_exp.config import InputError
from tnt_exp.config.sweep import LauncherConfig
from tnt_exp.sweep.jobs import Jobs
from tnt_exp.sweep.process import Limits
from tnt_exp.sweep.slots import Slot, slots
from tnt_exp.sweep.supervisor import Supervisor, Watcher


class LocalLauncher(Launcher):
    """One fresh process a job, over slots.

    Args:
        settings: Fields of `tnt_exp.config.sweep.LauncherConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        if isinstance(settings.get("command"), ListConfig):
            settings["command"] = list(settings["command"])
        self._config = LauncherConfig(**settings)
        self._slots: list[Slot] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's; a job is a process here, not a function."""

    @property
    def slots(self) -> list[Slot]:
        """Places for one job at a time."""
        self._slots = self._slots or slots(self._config)
        return self._slots

    def serve(self, jobs: Jobs, cwd: Path, watchers: Sequence[Watcher] = ()) -> None:
        """Run jobs until nothing is left.

        Args:
            jobs: Where points come from and endings go to.
            cwd: Where jobs run.
            watchers: Who else looks at the running jobs.
        """
        limits = Limits(self._config.timeout, self._config.memory)
        Supervisor(jobs, self.slots, limits, self._config.command, cwd, watchers).run()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Hydra's way to run a list of jobs, which another sweeper would take.

        Raises:
            InputError: Always: a job here needs the folder that our sweeper has prepared.
        """
        raise InputError(
            "hydra/launcher=local: expected the sweeper of tnt-exp, received another. Leave hydra/sweeper."
        )
