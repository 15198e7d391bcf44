"""Runs as data: a run read from its folder as it is asked for, and many runs as a table."""

import operator
import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex, overload

from tnt_exp import provenance
from tnt_exp.atomic_files import JsonObject, is_unlocked, read_json, warn_once
from tnt_exp.config import Config
from tnt_exp.config.compose import ADDED_KEYS, load_config
from tnt_exp.config.keys import did_you_mean
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.find import find_run, find_run_folders, load_model
from tnt_exp.formatting import as_number, canonical_text
from tnt_exp.run_folder import flat, read_metrics
from tnt_exp.sweeps.study import STUDY_FILE
from tnt_exp.tracking.record import RECALL, read_final_metrics, read_params

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from tnt_exp.model.classifier import Classifier

NAMES = ("run.name", "tracking.run_name")  # keys that name a run and change nothing
SEED = "seed"
_CONDITION = re.compile(r"\s*([\w./-]+?)\s*(>=|<=|!=|=|>|<)=?\s*(.*?)\s*")
_ORDER = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_SMALLER_IS_BETTER = re.compile(r"loss|error|seconds|macs|parameters|waiting")


@cache
def _added_defaults() -> JsonObject:
    return {key: value for key, value in flat(Config()).items() if key in ADDED_KEYS}


class Run:
    """One run, finished or not; everything is read from its folder when it is asked for first.

        run = tnt_exp.Run("multirun/runs/first")
        run.metrics["test/accuracy"]

    Raises `UserError` if the path is not that of a run folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()
        if not (self.path / "config.yaml").is_file():
            raise UserError(f"{path}: expected a run folder, received one without config.yaml.")

    def __repr__(self) -> str:
        return f"<Run {self.name} {self.state}>"

    @cached_property
    def job(self) -> int | None:
        """The number of a trial in its sweep; None for a run of its own."""
        is_trial = self.path.name.isdecimal() and (self.path.parent / STUDY_FILE).is_file()
        return int(self.path.name) if is_trial else None

    @property
    def name(self) -> str:
        """The name of the folder; of a trial of a sweep, `SWEEP/NUMBER`."""
        return self.path.name if self.job is None else f"{self.path.parent.name}/{self.job}"

    @cached_property
    def config(self) -> Config:
        """The configuration."""
        return load_config(self.path / "config.yaml")

    @cached_property
    def params(self) -> JsonObject:
        """The values of the configuration by dotted keys, as MLflow names them; empty if the file is damaged."""
        try:
            return {**_added_defaults(), **read_params(self.path)}
        except (OSError, ValueError) as error:
            warn_once(str(error))
            return {}

    @cached_property
    def result(self) -> JsonObject:
        """The content of `result.json`; empty while the run has not ended."""
        return read_json(self.path / "result.json", skip=True) or {}

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The final metrics by their names in MLflow.

        `val/accuracy` is that of the last epoch, `best/val/accuracy` that of the epoch whose weights were kept.
        """
        return read_final_metrics(self.path, self.result)

    @property
    def curves(self) -> "pd.DataFrame":
        """The content of `metrics.csv`, one row per epoch."""
        import pandas as pd

        return pd.DataFrame(read_metrics(self.path).rows).apply(pd.to_numeric)

    @property
    def state(self) -> str:
        """FINISHED, FAILED, KILLED, RUNNING, or SCHEDULED for a trial that has not begun."""
        if "status" in self.result:
            return str(self.result["status"])
        lock = self.path / ".lock"
        return "SCHEDULED" if not lock.exists() else "KILLED" if is_unlocked(lock) else "RUNNING"

    @cached_property
    def started(self) -> datetime | None:
        """When it was started first; None if that is not recorded."""
        starts = provenance.read(self.path)
        return datetime.fromisoformat(starts[0]["times"][0]) if starts and starts[0].get("times") else None

    def model(self) -> "Classifier":
        """Return the Keras model of a finished run, as `tnt_exp.load` does."""
        return self._classifier

    @cached_property
    def _classifier(self) -> "Classifier":
        return load_model(self.path)

    def predict(
        self, images: "np.ndarray | Sequence[str | os.PathLike[str]] | str | os.PathLike[str]", top: int = 1
    ) -> "pd.DataFrame":
        """Return a table of `image`, `rank`, `class`, `probability` and `error`, with the `top` classes of each image.

        The images are files, folders and globs, or an array (N, height, width, channels), uint8 or floats in 0..255.
        """
        from tnt_exp.finished_runs.predict import predict_table

        size, _, channels = find_run(self.path).image_shape
        return predict_table(self.model, images, size, channels, top)

    def evaluate(
        self, data: "Sequence[str] | tuple[np.ndarray, np.ndarray] | str | os.PathLike[str] | None" = None
    ) -> dict[str, float]:
        """Return `loss`, `accuracy` and the like of the model; nothing is written.

        On the run's own test images, those of a folder or of overrides (`["dataset=cifar10"]`), or on images
        (N, height, width, channels) with their class numbers (N,).
        """
        from tnt_exp.finished_runs.test_images import evaluate_on

        return evaluate_on(find_run(self.path), self.model, os.fspath(data) if isinstance(data, os.PathLike) else data)


# What a run can be filtered by besides its configuration and its metrics.
_FIELDS = ("name", "state")


class RunCollection(Sequence[Run]):
    """Runs, the newest first.

        runs = tnt_exp.runs("multirun").filter("test/accuracy > 0.9", model__depth=3)
        runs.table()
        runs.best("best/val/accuracy").predict(["photo.jpg"])

    Runs that are given to the constructor keep their order.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = list(runs)

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> "RunCollection": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "Run | RunCollection":
        return RunCollection(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __repr__(self) -> str:
        states = [run.state for run in self]
        return f"<{len(self)} runs: {', '.join(f'{states.count(state)} {state}' for state in sorted({*states}))}>"

    def _repr_html_(self) -> str:
        shown = ["name", *self.varying, "best/val/accuracy", "test/accuracy", "total_seconds", "state"]
        return str(self.table().filter(shown)._repr_html_())

    @cached_property
    def varying(self) -> list[str]:
        """The keys of the configuration whose values differ among the runs, except the names of the runs."""
        keys = dict.fromkeys(key for run in self for key in run.params)
        return [key for key in keys if key not in NAMES and len({str(run.params.get(key)) for run in self}) > 1]

    def table(self) -> "pd.DataFrame":
        """Return one row per run: `name`, the keys that vary, the final metrics, times, `state` and `path`.

        Keys and metrics have the names of MLflow, where `mlflow.search_runs` puts `params.` and `metrics.` before them.
        `total_seconds` is the time from the start of the command to its end, of all starts together. The recall
        of each class is in `Run.metrics` only.
        """
        import pandas as pd

        metrics = dict.fromkeys(name for run in self for name in run.metrics if not name.startswith(RECALL))
        rows = [
            {
                **{key: run.params.get(key) for key in self.varying},
                "total_seconds": run.result.get("total_seconds"),
                **run.metrics,
                "name": run.name,
                "state": run.state,
                "started": run.started,
                "path": str(run.path),
            }
            for run in self
        ]
        last = ["total_seconds", "state", "started", "path"]
        return pd.DataFrame(
            rows, columns=["name", *self.varying, *(name for name in metrics if name not in last), *last]
        )

    def curves(self, metrics: Sequence[str] | None = None) -> "pd.DataFrame":
        """Return one row per run, metric and epoch: `name`, the keys that vary, `epoch`, `metric` and `value`.

        The metrics are names such as `val/accuracy`; None: all columns of `metrics.csv`. Raises `UserError` if no run
        has one of them.
        """
        import pandas as pd

        columns, parts = ["name", *self.varying, "epoch", "metric", "value"], []
        for run in self:
            part = run.curves
            if len(part):
                part = part.melt([name for name in ("epoch", "step") if name in part], var_name="metric")
                parts.append(part.assign(name=run.name, **{key: str(run.params.get(key)) for key in self.varying}))
        found = pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
        metrics = [metrics] if isinstance(metrics, str) else metrics
        for name in metrics or []:
            require_known(name, {*found["metric"]}, "a metric of metrics.csv")
        return found[found["metric"].isin(metrics)].reset_index(drop=True) if metrics else found

    def best(self, metric: str | None = None, *, maximize: bool | None = None) -> Run:
        """Return the finished run with the best value of a metric; of equal ones the first.

        Args:
            metric: Its name in MLflow; None: `best/val/accuracy`, or `test/accuracy` if there is no validation.
            maximize: None: the largest value, unless the name contains loss, error, seconds, macs or parameters.

        Raises `UserError` if no finished run has a finite value of it.
        """
        finished = [run for run in self if run.state == "FINISHED"]
        known = {name for run in finished for name, value in run.metrics.items() if as_number(value) is not None}
        metric = metric or ("best/val/accuracy" if "best/val/accuracy" in known else "test/accuracy")
        require_known(metric, known, "a metric of a finished run")
        if maximize is None:
            maximize = _SMALLER_IS_BETTER.search(metric) is None
        values = {run: run.metrics[metric] for run in finished if as_number(run.metrics.get(metric)) is not None}
        return (max if maximize else min)(values, key=values.__getitem__)

    def filter(self, *conditions: str | Callable[[Run], bool], **values: object) -> "RunCollection":
        """Return the runs that fulfil all conditions.

        Args:
            conditions: Texts such as `"model.depth = 8"`, `"model.depth = 8,12"` (one of them), `"test/accuracy > 0.9"`
                and `"state != FAILED"`, or functions of a run.
            values: Keys with their values; two underscores are a dot (`model__depth=8`).

        Raises `UserError` if a condition cannot be read, or no run has its key.
        """
        tests = [condition if callable(condition) else self._parsed(condition) for condition in conditions]
        tests += [self._test(key.replace("__", "."), "=", {canonical_text(value)}) for key, value in values.items()]
        return RunCollection(run for run in self if all(test(run) for test in tests))

    def _parsed(self, condition: str) -> Callable[[Run], bool]:
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise UserError(f"{condition}: expected KEY=VALUE, or KEY, one of != > >= < <=, and a number; correct it.")
        key, sign, wanted = match.groups()
        if sign in _ORDER and as_number(wanted) is None:
            raise UserError(f"{condition}: expected a number after {sign}, received {wanted!r}; correct it.")
        return self._test(key, sign, set(map(canonical_text, [wanted] if wanted[:1] == "[" else wanted.split(","))))

    def _test(self, key: str, sign: str, wanted: set[str]) -> Callable[[Run], bool]:
        if self:
            known = {*_FIELDS, *(name for run in self for name in (*run.params, *run.metrics))}
            require_known(key, known, "a key of the configuration, a metric, name or state")

        def holds(run: Run) -> bool:
            value = getattr(run, key) if key in _FIELDS else {**run.metrics, **run.params}.get(key)
            found = canonical_text(value)
            if sign not in _ORDER:
                return (found in wanted) == (sign == "=")
            number = as_number(found)
            return number is not None and bool(_ORDER[sign](number, float(min(wanted))))

        return holds

    def groups(self, over: str | Sequence[str] = SEED) -> "list[RunCollection]":
        """Return the groups of runs whose configurations differ in the keys `over` only."""
        keys = [key for key in self.varying if key not in ([over] if isinstance(over, str) else over)]
        found: dict[tuple[str, ...], list[Run]] = {}
        for run in self:
            found.setdefault(tuple(str(run.params.get(key)) for key in keys), []).append(run)
        return [RunCollection(runs) for runs in found.values()]

    def group_mean(self, over: str | Sequence[str] = SEED) -> "pd.DataFrame":
        """Return one row per group of runs whose configurations differ in the keys `over` only.

        It has the other keys that vary, `runs` (the number of finished ones), and for each of their metrics the mean
        and, as `NAME_std`, the sample standard deviation (NaN for one run).
        """
        import pandas as pd

        rows, keys = [], [key for key in self.varying if key not in ([over] if isinstance(over, str) else over)]
        for group in self.groups(over):
            values = pd.DataFrame([run.metrics for run in group if run.state == "FINISHED"])
            row = {**{key: group[0].params.get(key) for key in keys}, "runs": len(values)}
            rows.append({**row, **values.mean(), **values.std().add_suffix("_std")})
        return pd.DataFrame(rows)


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise `UserError` if a name is not among the known ones."""
    if name not in known:
        raise UserError(f"{name}: expected {what}, received an unknown one.{did_you_mean(name, sorted(known))}")


def runs(
    source: str | os.PathLike[str] = "multirun", *conditions: str, uri: str | None = None, **values: object
) -> RunCollection:
    """Return the runs of a folder or of an MLflow experiment, the newest first.

    Args:
        source: A folder of runs and sweeps, one of them, the name or MLflow id of a run, or an MLflow experiment, whose
            runs are read from their folders on this machine.
        conditions, values: See `RunCollection.filter`.
        uri: Tracking store, if MLflow is asked; None: SQLite in the working folder.

    Raises `UserError` if there is no such folder, run or experiment, or a condition is wrong.
    """
    found = [Run(folder) for folder in find_run_folders(os.fspath(source), uri)]
    found.sort(key=lambda run: (run.started.timestamp() if run.started else 0.0, run.job or 0, run.name), reverse=True)
    return RunCollection(found).filter(*conditions, **values)
