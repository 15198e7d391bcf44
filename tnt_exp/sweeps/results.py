"""The results of a sweep as the reports need them, read from its folder or from MLflow."""

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tnt_exp import run_folder
from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.errors import printable_name
from tnt_exp.formatting import as_number
from tnt_exp.reports.leaderboard import FOLD, TEST_METRICS, RankedPoint, TrialRow, rank_points
from tnt_exp.reports.sweep_page import SweepResults
from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import Trial, TrialState, default_objective, objective_value, read_outcome, trial_state
from tnt_exp.sweeps.worker import LOG
from tnt_exp.tracking.record import FACTS, RECALL

if TYPE_CHECKING:
    from tnt_exp.tracking.queries import History, MlflowRun

CURVES = 8  # of the best runs

_TAIL = 4096  # bytes of a failed run's log


def rerun_command(trial: Trial) -> str:
    """Return the command that runs a trial alone."""
    return shlex.join(["tnt-exp", "train", *trial.overrides])


def objective_name(study: SweepStudy) -> str:
    """Return the name of the objective, for display."""
    return str(study.data["objective"] or default_objective(map(study.result, study.trials)))


def varying_keys(study: SweepStudy, planned: Iterable[str] = ()) -> list[str]:
    """Return the keys that any command of the sweep has swept, or that differ between its trials."""
    swept = [*(key for trial in study.trials for key in trial.params), *planned]
    return _differing(swept, [_values(trial.overrides) for trial in study.trials])


def _values(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides by their keys."""
    return {key: value for key, sign, value in (text.partition("=") for text in overrides) if sign}


def _differing(swept: Iterable[str], trials: Sequence[dict[str, str]]) -> list[str]:
    """Return the swept keys, and those whose values differ between trials, in which a command fixed them."""
    keys = dict.fromkeys(key for values in trials for key in values)
    differing = (key for key in keys if len({values.get(key) for values in trials}) > 1)
    return list(dict.fromkeys([*swept, *differing]))


def rows(study: SweepStudy) -> list[TrialRow]:
    """Return one row per trial."""
    keys, objective = varying_keys(study), objective_name(study)
    return [_row(study, trial, keys, objective) for trial in study.trials]


def _row(study: SweepStudy, trial: Trial, keys: Sequence[str], objective: str) -> TrialRow:
    result = study.result(trial)
    state = trial_state(result)
    folder = study.folder_of(trial)
    failed = state is TrialState.failed
    known = result or {}
    why = read_outcome(result) if failed else None
    value, values = objective_value(known, objective), {**trial.params, **_values(trial.overrides)}
    if state is TrialState.pruned:
        value = as_number(run_folder.read_metrics(folder).value(objective))
    return TrialRow(
        job=trial.job,
        params={key: values[key] for key in keys if key in values},
        state=state.value,
        objective=None if failed or state is TrialState.waiting else value,
        metrics=known.get("metrics", {}),
        facts={name: known[name] for name in FACTS if name in known},
        error=f"{why.cause.value}: {why.error}" if why and why.cause else None,
        command=rerun_command(trial),
        place=str(folder),
        log=log_tail(folder / LOG) if failed else "",
        run_id=known.get("mlflow_run_id"),
    )


def log_tail(file: Path) -> str:
    """Return the last lines of a log; empty if there is none."""
    try:
        with file.open("rb") as stream:
            start = stream.seek(max(0, file.stat().st_size - _TAIL))
            lines = stream.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join((lines[start > 0 :] or lines)[-12:])  # the first one was cut


def ranked(found: list[TrialRow], study: SweepStudy) -> list[RankedPoint]:
    """Return the ranking of trials, best first."""
    return rank_points(found, maximize=study.maximize)


def load_results(study: SweepStudy) -> SweepResults:
    """Read everything that the report shows from the sweep folder."""
    found = rows(study)
    objective = objective_name(study)
    curves = _best_curves(ranked(found, study), lambda row: run_folder.read_metrics(Path(row.place)).curve(objective))
    images = _measured_images([Path(row.place) for row in found], objective)
    place = "/".join(study.folder.parts[-3:])  # multirun/sweeps/ID
    return SweepResults(study.id, found, objective, study.maximize, curves, place, images)


def _best_curves(
    ranking: Sequence[RankedPoint], history: Callable[[TrialRow], list[tuple[float, float]]]
) -> dict[str, list[tuple[float, float]]]:
    """Return the curves of the best points, as far as they have one, by the labels of their runs."""
    best = [point.best for point in ranking[:CURVES] if point.mean is not None]
    curves = {f"job {row.job}: {row.label}": history(row) for row in best}
    return {label: curve for label, curve in curves.items() if curve}


def _measured_images(folders: list[Path], objective: str) -> int | None:
    """Return how many images an accuracy was measured on; None if it is another metric, or unknown."""
    split, _, name = objective.partition("/")
    described: JsonObject = next(
        (found for each in folders if (found := read_json(each / "dataset.json", skip=True))), {}
    )
    known = described.get("images", {}) if name == "accuracy" else {}
    return known.get({"val": "validation"}.get(split, split))


def load_results_from_mlflow(uri: str, sweep_id: str) -> SweepResults:
    """Read the same from MLflow, if the sweep folder is on another machine; raise `UserError` if there is no sweep."""
    from tnt_exp.tracking.queries import read_sweep_runs

    parent, children, history = read_sweep_runs(uri, sweep_id)
    tags = parent.data.tags
    maximize, images = tags["direction"] == "maximize", tags.get("objective_images")
    ended = ({"status": child.info.status, "metrics": child.data.metrics} for child in children)
    objective = tags.get("objective") or default_objective(ended)
    commands = [_values(shlex.split(child.data.tags.get("command", ""))) for child in children]
    keys = _differing(tags["swept"].split(), [values for values in commands if values])
    found = [
        _mlflow_row(child, {key: values[key] for key in keys if key in values}, objective, history)
        for child, command in zip(children, commands, strict=True)
        for values in [command or child.data.params]
    ]
    ranking = rank_points(found, maximize=maximize) if objective.startswith(("train/", "val/")) else []
    curves = _best_curves(ranking, lambda row: history(row.run_id or "", objective))
    return SweepResults(sweep_id, found, objective, maximize, curves, uri, int(images) if images else None)


def _mlflow_row(run: "MlflowRun", params: dict[str, str], objective: str, history: "History") -> TrialRow:
    """Return the row of a trial as far as MLflow has it: the metrics are those of the kept epoch.

    Older versions logged `parameters`, and no names of their own for the kept epoch.
    """
    status, logged, tags = run.info.status, run.data.metrics, run.data.tags
    kept = {name: value for name, value in logged.items() if name.startswith(("val/", "test/"))}
    kept = {name: value for name, value in kept.items() if not name.startswith(RECALL)}
    kept |= {name.removeprefix("best/"): value for name, value in logged.items() if name.startswith("best/")}
    if objective.startswith("train/") and (epoch := tags.get("best_epoch")):
        kept[objective] = dict(history(run.info.run_id, objective))[float(epoch)]
    facts = {key: logged[each] for key, name in FACTS.items() for each in (key, name) if each in logged}
    state = TrialState.waiting if status in ("RUNNING", "SCHEDULED") else trial_state({**tags, "status": status})
    value = objective_value({**facts, "metrics": kept}, objective) if state is TrialState.finished else None
    if state is TrialState.pruned and objective.startswith(("train/", "val/")):
        value = as_number(logged.get(objective))  # after the last epoch
    return TrialRow(
        job=int(tags["sweep_job"]),
        params=params,
        state=state.value,
        objective=value,
        metrics=kept,
        facts=facts,
        error=tags.get("error"),
        command=tags.get("command", ""),
        place=tags.get("run_folder", ""),
        run_id=run.info.run_id,
    )


def folds_summary(study: SweepStudy) -> str:
    """Return mean ± sample standard deviation of the test metrics over the folds of the best point; "" without folds.

    The confusion matrix over all its folds is written to the sweep folder.
    """
    point = _best_point(study)
    if point is None:
        return ""
    found = {name: (point.mean_of(name), point.std_of(name)) for name in TEST_METRICS}
    shown = ", ".join(
        f"{name} {mean:.4f}" + ("" if std is None else f" ± {std:.4f}")
        for name, (mean, std) in found.items()
        if mean is not None
    )
    if not shown:
        return ""
    lines = [f"folds      {len(point.finished)} of {len(point.rows)} runs: {shown}"]
    lines += [f"           confusion matrix over all: {file}" for file in write_folds_matrix(study, study.folder)]
    return "\n".join(lines)


def write_folds_matrix(study: SweepStudy, folder: Path) -> list[Path]:
    """Write the sum of the confusion matrices of the best point's runs, as a table and a figure; return the files."""
    point = _best_point(study)
    finished = point.finished if point else []
    matrices = [matrix for row in finished if (matrix := run_folder.read_confusion_matrix(Path(row.place))) is not None]
    if not matrices or any(names != matrices[0][0] for names, _ in matrices):
        return []
    from tnt_exp.reports.run_figures import draw_confusion_matrix  # imports Matplotlib

    names, total = matrices[0][0], np.sum([matrix for _, matrix in matrices], axis=0)
    files = [folder / "confusion_matrix.csv", folder / "confusion_matrix.png"]
    run_folder.write_confusion_matrix(folder, total, names)
    shown = [printable_name(name) for name in names]
    draw_confusion_matrix(total, shown, f"{total.sum():,} test images of {len(matrices)} runs", files[1])
    return files


def _best_point(study: SweepStudy) -> RankedPoint | None:
    """Return the first point of the leaderboard if its runs are folds, else None."""
    ranking = ranked(rows(study), study)
    return ranking[0] if ranking and any(FOLD in row.params for row in ranking[0].rows) else None
