"""The Hydra Sweeper: what is run. It keeps the books, so that it works with every launcher."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tnt_exp.config.sweep import Method, OnInvalid, Rerun, SweepConfig
from tnt_exp.errors import UserError
from tnt_exp.preflight import preflight
from tnt_exp.sweep import hydra_executor, study, summary
from tnt_exp.sweep.live_table import LiveTable
from tnt_exp.sweep.local_executor import LocalLauncher, ProcessMonitor
from tnt_exp.sweep.mlflow_observer import MlflowObserver
from tnt_exp.sweep.plan import Plan, TrialComposer, plan_trials
from tnt_exp.sweep.results import objective_name
from tnt_exp.sweep.scheduler import GridSource, Scheduler, TrialSource
from tnt_exp.sweep.search_space import SearchSpace
from tnt_exp.sweep.study import SweepStudy
from tnt_exp.sweep.trial import Trial, TrialState


@dataclass(frozen=True)
class Summary:
    """How a sweep ended.

    Attributes:
        exit_code: 0 every point finished (or was pruned), 1 some failed or were left.
        folder: The sweep's folder; None after a dry run.
    """

    exit_code: int
    folder: Path | None


class Sweeper(HydraSweeper):
    """Expands, checks, freezes, skips what is finished, and hands the rest to a launcher.

    Args:
        settings: Fields of `tnt_exp.config.sweep.SweepConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = SweepConfig(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's: take what the sweep needs of it."""
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def sweep(self, arguments: list[str]) -> Summary:
        """Run the sweep.

        Args:
            arguments: Overrides of the task, as typed.

        Raises:
            UserError: A point cannot run, or nothing can.
        """
        settings = self._settings
        self._command = [*arguments, *study.sweep_overrides(self._config)]
        self._compose = TrialComposer(_config_dir(self._config))
        space = SearchSpace(arguments, settings.space, self._hydra_context.config_loader)
        return self._grid(space) if settings.method is Method.grid else self._search(space)

    def _grid(self, space: SearchSpace) -> Summary:
        settings = self._settings
        candidates = space.grid()
        books = study.find_grid_to_resume(self._config, {candidate.key for candidate in candidates}, settings.rerun)
        known = books.keys() if books else set()
        hashes = [point.hash for point in books.points] if books else []
        planned = plan_trials(
            [candidate for candidate in candidates if candidate.key not in known], self._compose, hashes
        )
        self._refuse(planned)
        print(summary.plan_summary(planned, books))
        if settings.dry_run:
            return Summary(0, None)
        books = books or self._new(None)
        books.hold()
        for candidate, config in planned.points:
            books.add(candidate, config)
        books.end(ended=False)
        return self._run(books, GridSource(self._waiting(books), len(books.points)), [])

    def _search(self, space: SearchSpace) -> Summary:
        from tnt_exp.sweep.optuna_search import OptunaSearch, PruningMonitor, search_fingerprint

        settings = self._settings
        preflight(self._compose(list(space.fixed.values())))
        launcher = self._launcher()
        local = launcher if isinstance(launcher, LocalLauncher) else None
        parallel = settings.parallel or (len(local.slots) if local else 1)
        defined = search_fingerprint(space, settings, parallel)
        books = study.find_search_to_resume(self._config, defined, settings)
        print(summary.search_summary(space, settings, parallel, books))
        if settings.dry_run:
            return Summary(0, None)
        books = books or self._new(defined)
        books.hold()
        search = OptunaSearch(books, space, settings, self._compose, parallel)
        books.end(ended=False)
        if settings.pruning and not local:
            print("sweep.pruning works with the local launcher: here every point runs to its end")
        watchers = [PruningMonitor(search, objective_name(books))] if settings.pruning else []
        return self._run(books, search, watchers)

    def _launcher(self) -> Launcher:
        """The launcher that Hydra's configuration names, set up for the sweep folder as it is now."""
        launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._hydra_context, task_function=self._task_function, config=self._config
        )
        return launcher

    def _refuse(self, planned: Plan) -> None:
        if planned.invalid and (self._settings.on_invalid is OnInvalid.stop or not planned.points):
            raise UserError(planned.complaint())

    def _new(self, search: dict[str, Any] | None) -> SweepStudy:
        return SweepStudy.new(
            study.sweep_dir(self._config),
            command=self._command,
            config_dir=_config_dir(self._config),
            search=search,
            objective=self._settings.objective,
            direction=self._settings.direction.name,
        )

    def _waiting(self, books: SweepStudy) -> list[Trial]:
        wanted = {TrialState.waiting} | ({TrialState.failed} if self._settings.rerun is Rerun.failed else set())
        waiting = [point for point in books.points if books.state(point) in wanted]
        # The largest first: what does not fit is known early, and the slots come to their end together.
        return sorted(waiting, key=lambda point: -point.work)

    def _run(self, books: SweepStudy, source: TrialSource, watchers: Sequence[ProcessMonitor]) -> Summary:
        with open_dict(self._config):
            self._config.hydra.sweep.dir = str(books.folder)
        launcher = self._launcher()
        local = launcher if isinstance(launcher, LocalLauncher) else None
        jobs = Scheduler(books, source, self._settings.retries, self._settings.fail_fast)
        print(f"sweep folder {books.folder}", flush=True)
        telling = MlflowObserver.of(books)
        with LiveTable(jobs, len(local.slots) if local else 1) as view:
            jobs.observers = [telling, view]
            try:
                if local:
                    local.serve(jobs, Path(books.data["cwd"]), [view, *watchers])
                else:
                    hydra_executor.run_with_launcher(launcher, jobs)
            except BaseException:
                telling.finish("KILLED")
                raise
        left = jobs.count(TrialState.waiting)
        failed = jobs.count(TrialState.failed)
        telling.finish("FAILED" if failed or left else "FINISHED")
        books.end(ended=not left)
        print(summary.end_summary(books, jobs))
        return Summary(1 if failed or left else 0, books.folder)


def _config_dir(config: DictConfig) -> str | None:
    """The folder of `--config-dir`."""
    for source in config.hydra.runtime.config_sources:
        if source.provider == "command-line":
            return str(source.path)
    return None
