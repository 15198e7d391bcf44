"""The Hydra sweeper: decides what runs and keeps the study, so that it works with every launcher."""

from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from tnt_exp.atomic_files import JsonObject
from tnt_exp.config.overrides import is_known_key, unknown_key
from tnt_exp.config.sweep import LauncherConfig, Method, OnInvalid, SweepConfig
from tnt_exp.config.validation import check_bounds
from tnt_exp.data.splits import RandomStream, random_order
from tnt_exp.errors import UserError
from tnt_exp.preflight import preflight
from tnt_exp.sweeps import summary
from tnt_exp.sweeps.executors import LocalLauncher, run_with_launcher
from tnt_exp.sweeps.mlflow_observer import MlflowObserver
from tnt_exp.sweeps.plan import TrialComposer, plan_trials
from tnt_exp.sweeps.results import folds_summary
from tnt_exp.sweeps.scheduler import GridSource, Scheduler, SweepCallback, TrialSource
from tnt_exp.sweeps.search_space import SearchSpace, read_points
from tnt_exp.sweeps.study import SweepStudy, find_grid_to_resume, find_search_to_resume, sweep_overrides
from tnt_exp.sweeps.trial import VALIDATION, TrialSpec, TrialState


class Sweeper(HydraSweeper):
    """Hydra sweeper: expands and validates trials, freezes their configurations, skips what is finished, runs the rest.

    Its settings are the fields of `SweepConfig`.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings = SweepConfig(**settings)
        if self._settings.objective:  # MLflow shows a metric of the kept epoch with a prefix
            self._settings.objective = self._settings.objective.removeprefix("best/")

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self._hydra_context = hydra_context
        self._task_function = task_function
        self._config = config

    def sweep(self, arguments: list[str]) -> int:
        """Run the sweep of these overrides of the run, as typed; raise `UserError` if a trial cannot run.

        Returns the exit code: 0 every trial finished (or was pruned), 1 some failed or were not run.
        """
        settings, launcher = self._settings, self._config.hydra.launcher
        check_bounds(settings, "sweep.")
        if launcher._target_ == LauncherConfig._target_:
            check_bounds(LauncherConfig(**launcher), "launcher.")
        self._command = [*arguments, *sweep_overrides(self._config)]
        self._compose = TrialComposer(_config_dir(self._config))
        space = SearchSpace(arguments, settings.space, self._hydra_context.config_loader)
        if settings.method in (Method.grid, Method.zip):
            return self._grid(space)
        for key in ("points", "subset"):
            if getattr(settings, key) is not None:
                raise UserError(f"sweep.{key}: expected with sweep=grid or zip, received with {settings.method.name}.")
        return self._search(space)

    def _grid(self, space: SearchSpace) -> int:
        settings = self._settings
        specs = self._specs(space)
        study = self._locked(find_grid_to_resume(self._config, {spec.key for spec in specs}, settings.rerun))
        known = study.override_keys() if study else set()
        hashes = [trial.hash for trial in study.trials] if study else []
        planned = plan_trials([spec for spec in specs if spec.key not in known], self._compose, hashes)
        if planned.invalid and (settings.on_invalid is OnInvalid.stop or not (planned.trials or known)):
            raise UserError(planned.error_message())
        print(summary.plan_summary(planned, study))
        if settings.dry_run:
            return 0
        study = study or self._new_study(None)
        # No trial depends on these: the command that was typed last counts.
        study.data |= {"command": self._command, "objective": settings.objective}
        study.data["direction"] = settings.direction.name
        with study.remove_on_error():
            for spec, config in planned.trials:
                study.add_trial(spec, config)
            study.mark_complete(complete=False)
        # The most expensive first: what does not fit in memory fails early, and all slots end at about the same time.
        pending = sorted(study.pending_trials(settings.rerun), key=lambda trial: -trial.work)
        return self._run(study, GridSource(pending, len(study.trials)), space)

    def _specs(self, space: SearchSpace) -> list[TrialSpec]:
        """Return the trials of a grid; a larger `sweep.subset` contains the smaller one."""
        settings, points = self._settings, [dict[str, str]()]
        if settings.points is not None:
            file = Path(settings.points).expanduser()
            points = read_points(file, _config_dir(self._config), {*space.fixed, *space.swept})
        specs = space.grid(points, zipped=settings.method is Method.zip)
        order = random_order(len(specs), RandomStream.grid, settings.seed)
        return [specs[index] for index in sorted(order[: settings.subset])]

    def _search(self, space: SearchSpace) -> int:
        from tnt_exp.sweeps.optuna_search import OptunaSearch, PruningMonitor, search_fingerprint

        settings = self._settings
        if unknown := next((key for key in space.swept if not is_known_key(key.lstrip("+"))), None):
            raise UserError(unknown_key(unknown))
        preflight(self._compose(list(space.fixed.values())))
        launcher = self._launcher()
        local = launcher if isinstance(launcher, LocalLauncher) else None
        parallel = settings.parallel or (len(local.slots) if local else 1)
        fingerprint = search_fingerprint(space, settings, parallel)
        study = self._locked(find_search_to_resume(self._config, fingerprint, settings))
        print(summary.search_summary(space, settings, parallel, study))
        if settings.dry_run:
            return 0
        study = study or self._new_study(fingerprint)
        study.data["command"] = self._command
        with study.remove_on_error():
            search = OptunaSearch(study, space, settings, self._compose, parallel)
            study.mark_complete(complete=False)
        if settings.pruning and not local:
            print("sweep.pruning works with the local launcher only: every trial runs to its end")
        pruning = [PruningMonitor(search, settings.objective or VALIDATION)] if settings.pruning else []
        return self._run(study, search, space, *pruning)

    def _launcher(self) -> Launcher:
        """Return the configured launcher, set up for the sweep folder as it is now."""
        launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=self._hydra_context, task_function=self._task_function, config=self._config
        )
        return launcher

    def _locked(self, study: SweepStudy | None) -> SweepStudy | None:
        """Lock the sweep that is resumed before anything is decided on what it holds, unless it is only shown."""
        if study is not None and not self._settings.dry_run:
            study.acquire_lock()
        return study

    def _new_study(self, search: JsonObject | None) -> SweepStudy:
        study = SweepStudy.new(
            Path(self._config.hydra.sweep.dir),
            command=self._command,
            config_dir=_config_dir(self._config),
            search=search,
            objective=self._settings.objective,
            direction=self._settings.direction.name,
        )
        with study.remove_on_error():
            study.acquire_lock()
        return study

    def _run(self, study: SweepStudy, source: TrialSource, space: SearchSpace, *callbacks: SweepCallback) -> int:
        with open_dict(self._config):
            self._config.hydra.sweep.dir = str(study.folder)
        launcher = self._launcher()
        local = launcher if isinstance(launcher, LocalLauncher) else None
        scheduler = Scheduler(study, source, self._settings.retries, self._settings.fail_fast)
        print(f"sweep folder {study.folder}", flush=True)
        config = study.config(study.trials[0]) if study.trials else self._compose(list(space.fixed.values()))
        observer = MlflowObserver.of(study, config.tracking, space.swept)
        with summary.LiveTable(scheduler, len(local.slots) if local else 1) as view:
            scheduler.callbacks = [observer, view, *callbacks]
            try:
                if local:
                    local.run(scheduler)
                else:
                    run_with_launcher(launcher, scheduler)
            except BaseException:
                observer.finish("KILLED")
                raise
        left = scheduler.count(TrialState.waiting)
        failed = scheduler.count(TrialState.failed)
        is_finished = study.trials and not failed and not left
        observer.finish("FINISHED" if is_finished else "FAILED")
        study.mark_complete(complete=not left)
        print("\n".join(filter(None, [summary.end_summary(study, scheduler), folds_summary(study)])))
        return 0 if is_finished else 1


def _config_dir(config: DictConfig) -> str | None:
    """Return the folder of `--config-dir`, or None."""
    sources = config.hydra.runtime.config_sources
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)
