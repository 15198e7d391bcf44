"""Compare runs: what differs in configuration, data, versions and machine, and whether a difference is significant."""

import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tnt_exp import provenance
from tnt_exp.atomic_files import JsonObject, read_json
from tnt_exp.errors import UserError
from tnt_exp.finished_runs.collection import NAMES, Run, RunCollection, require_known, runs
from tnt_exp.formatting import as_number, canonical_text, format_table
from tnt_exp.reports.leaderboard import REPEATED
from tnt_exp.run_folder import read_metrics

_METRICS = ("best/val/accuracy", "best/val/loss", "test/accuracy", "test/top5_accuracy", "test/loss", "train_seconds")
_CURVES = ("val/accuracy", "val/loss", "train/loss")
_LEVEL = 0.05  # of significance

_LUCK_UNKNOWN = "one run each does not show whether a difference is luck; repeat both with other seeds: -m seed=0,1,2"
_NO_SPREAD = "no p value: the differences between the groups have no spread"
_PAIRED = "p: paired t-test by seed and fold; assumes independent pairs whose differences are about normal"
_WELCH = "p: Welch's t-test; assumes independent runs whose values are about normal"


@dataclass(frozen=True)
class MetricComparison:
    """A metric in each group."""

    values: list[list[float]]  # of the runs of each group that have it
    p_values: list[float | None]  # of the difference from the first group; None: fewer than two values, or no spread
    paired: bool  # whether the test was paired

    @property
    def means(self) -> list[float | None]:
        """The mean of each group."""
        return [statistics.fmean(values) if values else None for values in self.values]

    def cell(self, group: int) -> str:
        """Return `0.9444 ± 0.0031 (+0.0139, p 0.0021)`: mean, sample deviation, difference from the first group, p."""
        mean, first = self.means[group], self.means[0]
        if mean is None:
            return "-"
        spread = f" ± {statistics.stdev(self.values[group]):.4f}" if len(self.values[group]) > 1 else ""
        notes = [f"{mean - first:+.4f}"] if group and first is not None else []
        notes += [f"p {p:.2g}"] if (p := self.p_values[group]) is not None else []
        return f"{mean:.4f}{spread}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(frozen=True, repr=False)
class Comparison:
    """Groups of runs side by side; the first one is what the others are compared with."""

    groups: list[RunCollection]  # runs whose configurations differ in the seed or the fold only
    names: list[str]  # of the groups
    differences: dict[str, list[str]]  # what differs between the groups: its name, and its value in each
    metrics: dict[str, MetricComparison]  # all final metrics by name
    shown: list[str]  # the names of those in the table
    left_out: int  # how many runs are left out because they did not finish

    def rows(self) -> list[list[str]]:
        """Return the table: a header with the groups, what differs, and the metrics."""
        cells = [[name, *map(self.metrics[name].cell, range(len(self.groups)))] for name in self.shown]
        return [["", *self.names], *([key, *values] for key, values in self.differences.items()), *cells]

    def notes(self) -> list[str]:
        """Return what a reader must know, one line each: which test was made, what it assumes, what it shows."""
        lines = [f"{self.left_out} runs that did not finish are left out"] if self.left_out else []
        found = [
            (p, f"{name} of {group}" if len(self.groups) > 2 else name)
            for name in self.shown
            for group, p in zip(self.names, self.metrics[name].p_values, strict=True)
            if p is not None
        ]
        if not found:
            return [*lines, _LUCK_UNKNOWN if min(map(len, self.groups)) < 2 else _NO_SPREAD]
        paired = any(self.metrics[name].paired for name in self.shown)
        lines.append(_PAIRED if paired else _WELCH)
        others = len(self.groups) - 1
        level = _LEVEL / others
        beyond = ", ".join(name for p, name in found if p < level) or "nothing"
        divided = f" ({_LEVEL} divided by {others} comparisons)" if others > 1 else ""
        return [*lines, f"significant, p < {level:.2g}{divided}: {beyond}"]

    def __repr__(self) -> str:
        # One column per group, or one row per group where that is narrower.
        tables = [format_table(rows[0], rows[1:]) for rows in (self.rows(), list(zip(*self.rows(), strict=True)))]
        return "\n".join([min(tables, key=lambda table: max(map(len, table.splitlines()))), *self.notes()])

    def to_json(self) -> JsonObject:
        """Return everything, with all metrics, as JSON; p values are those of the difference from the first group."""
        groups = zip(self.names, self.groups, strict=True)
        return {
            "groups": [{"name": name, "runs": [str(run.path) for run in group]} for name, group in groups],
            "differences": self.differences,
            "metrics": {name: {**vars(found), "means": found.means} for name, found in self.metrics.items()},
            "notes": self.notes(),
        }

    def draw(self, file: Path) -> None:
        """Draw the curves of all runs over each other, as PNG."""
        from tnt_exp.reports.run_figures import overlaid_curves, save_figure

        save_figure(overlaid_curves(self._curves()), file)

    def html(self) -> str:
        """Return a page that needs no network and no other file."""
        from tnt_exp.reports.run_figures import overlaid_curves
        from tnt_exp.reports.sweep_figures import to_svg
        from tnt_exp.reports.sweep_page import render_html

        curves = to_svg(overlaid_curves(self._curves()), "Curves", [])
        places = [f"{escape(run.name)} <code>{escape(str(run.path))}</code>" for group in self.groups for run in group]
        title = escape(" and ".join(self.names))
        body = f'{self._repr_html_()}<h2>Curves</h2><div class="card">{curves}</div><h2>Runs</h2>{"<br>".join(places)}'
        return render_html(title, f"<h1>{title}</h1>{body}")

    def _repr_html_(self) -> str:
        rows = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in self.rows()]
        body = "".join(f"<tr>{row}</tr>" for row in rows[1:])
        table = f"<table><thead><tr>{rows[0].replace('td>', 'th>')}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div class="card">{table}</div>' + "".join(f"<p>{escape(note)}</p>" for note in self.notes())

    def _curves(self) -> dict[str, dict[str, list[list[tuple[float, float]]]]]:
        """Return metric: group: its runs: (epoch, value) pairs."""
        found: dict[str, dict[str, list[list[tuple[float, float]]]]] = {}
        for name, group in zip(self.names, self.groups, strict=True):
            for run in group:
                rows = read_metrics(run.path)
                for metric in _CURVES:
                    if line := rows.curve(metric):
                        found.setdefault(metric, {}).setdefault(name, []).append(line)
        return found


def compare(
    *references: str | Run | RunCollection, metrics: Sequence[str] | None = None, uri: str | None = None
) -> Comparison:
    """Compare runs.

        print(tnt_exp.compare("first", "second"))

    Runs whose configurations differ in the seed or the fold only are one group. If all of them are, each argument is
    a group.

    Args:
        references: Runs, collections, or what `tnt_exp.runs` takes: folders, names, MLflow ids, sweeps.
        metrics: Names of those in the table; None: accuracies, losses and the seconds of training.
        uri: Tracking store, if MLflow is asked; None: SQLite in the working folder.

    Raises `UserError` if there are fewer than two runs, a reference names none, or no run has a metric.
    """
    given = [_collection(reference, uri) for reference in references]
    every = RunCollection({run.path: run for each in given for run in each}.values())
    if len(every) < 2:
        raise UserError(f"compare: expected two runs or more, received {len(every)}; name another run, or a sweep.")
    groups = every.groups(REPEATED)
    if len(groups) == 1:
        groups = _distinct(given) if len(given) > 1 else [every[number : number + 1] for number in range(len(every))]
    kept = [group.filter("state=FINISHED") for group in groups]
    if not all(kept):
        kept = groups
    found = {name: _compare_metric(kept, name) for name in dict.fromkeys(n for run in every for n in run.metrics)}
    metrics = [metrics] if isinstance(metrics, str) else metrics
    for name in metrics or []:
        require_known(name, found, "a metric of these runs")
    shown = list(metrics or [name for name in _METRICS if name in found] or found)[: len(metrics or _METRICS)]
    differences = _differences([[_facts(run) for run in group] for group in kept])
    names = [_label(group, differences, number) for number, group in enumerate(kept)]
    names = [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]
    return Comparison(kept, names, differences, found, shown, len(every) - sum(map(len, kept)))


def _distinct(given: Sequence[RunCollection]) -> list[RunCollection]:
    """Return the runs of each argument that no argument before it has, or raise `UserError`: there are none."""
    first = {run.path: number for number, each in reversed([*enumerate(given)]) for run in each}
    groups = [RunCollection(run for run in each if first[run.path] == number) for number, each in enumerate(given)]
    if not all(groups):
        raise UserError(
            f"compare: expected other runs in argument {[*map(len, groups)].index(0) + 1}, received none; leave it out."
        )
    return groups


def _collection(reference: str | Run | RunCollection, uri: str | None) -> RunCollection:
    if isinstance(reference, Run):
        return RunCollection([reference])
    if isinstance(reference, RunCollection):
        return reference
    found = runs(reference, uri=uri)[::-1]
    if not found:
        raise UserError(f"{reference}: expected runs, received none; tnt-exp list shows those of this folder.")
    return RunCollection(sorted(found, key=lambda run: run.job or 0))


def _label(group: RunCollection, differences: Mapping[str, list[str]], number: int) -> str:
    """Return the name of a run, or what distinguishes a group of runs."""
    if len(group) == 1:
        return group[0].name
    keys = [f"{key.rpartition('.')[2]}={values[number]}" for key, values in differences.items() if "." in key]
    return f"{' '.join(keys[:3]) or group[0].name} ({len(group)} runs)"


def _facts(run: Run) -> dict[str, str]:
    """Return what can make a difference: configuration, data, versions and machine, as far as it is recorded."""
    start, result = (provenance.read(run.path) or [{}])[-1], run.result
    dataset = read_json(run.path / "dataset.json", skip=True) or {}
    others = {
        "state": run.state,
        "dataset digest": dataset.get("digest", start.get("dataset_digest")),
        **result.get("versions", {}),
        "git commit": start.get("git_commit"),
        "uncommitted changes": (start.get("git_diff") or "none") if start else None,
        "hardware": result.get("hardware", {}).get("name"),
        "system": start.get("system"),
    }
    config = {key: canonical_text(value) for key, value in run.params.items() if key not in NAMES}
    return config | {key: str(value) for key, value in others.items() if value is not None}


def _differences(groups: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, list[str]]:
    """Return the facts that differ between groups, each with its values in every group."""
    found = {}
    for key in dict.fromkeys(key for group in groups for facts in group for key in facts):
        values = [sorted({facts[key] for facts in group if key in facts}) for group in groups]
        if all(values) and any(each != values[0] for each in values):
            found[key] = [" ".join(each) for each in values]
    if any(key.startswith("dataset.") for key in found):  # the digest follows from these
        found.pop("dataset digest", None)
    return found


def _compare_metric(groups: Sequence[RunCollection], name: str) -> MetricComparison:
    """Compare a metric of each group with that of the first: in pairs if both have the same seeds and folds, once."""
    found = [
        sorted(
            (tuple(run.params.get(key) or 0 for key in REPEATED), value)
            for run in group
            if (value := as_number(run.metrics.get(name))) is not None
        )
        for group in groups
    ]
    places = [[place for place, _ in pairs] for pairs in found]
    paired = all(each == places[0] and len({*each}) == len(each) for each in places)
    values = [[value for _, value in pairs] for pairs in found]
    p_values = [None, *(_p_value(each, values[0], paired=paired) for each in values[1:])]
    return MetricComparison(values, p_values, paired)


def _p_value(values: Sequence[float], first: Sequence[float], *, paired: bool) -> float | None:
    """Return the two-sided p value of equal means; None if it is not defined."""
    if min(len(values), len(first)) < 2:
        return None
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values without spread
        test = stats.ttest_rel(values, first) if paired else stats.ttest_ind(values, first, equal_var=False)
    return as_number(test.pvalue)
