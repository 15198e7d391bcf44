"""A sweep as one HTML page that needs no network and no other file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

from tnt_exp.reports.leaderboard import (
    MainEffect,
    RankedPoint,
    TrialRow,
    kept_name,
    leaderboard_columns,
    main_effects,
    param_importances,
    rank_points,
    verdict,
)

_CSS, _SORT = (Path(__file__).with_suffix(suffix).read_text("utf-8") for suffix in (".css", ".js"))


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep."""

    id: str
    rows: Sequence[TrialRow]
    objective: str
    maximize: bool
    curves: Mapping[str, Sequence[tuple[float, float]]]  # (epoch, objective) pairs of the best runs, by their labels
    place: str  # the sweep folder, or the store
    images: int | None = None  # on which the objective, an accuracy, was measured

    @cached_property
    def ranking(self) -> list[RankedPoint]:
        """The points, best first."""
        return rank_points(self.rows, maximize=self.maximize)

    @cached_property
    def verdict(self) -> list[str]:
        """Which trial is the best, by how much, and whether that is more than chance."""
        return verdict(self.ranking, self.objective, self.images)

    @cached_property
    def effects(self) -> list[MainEffect]:
        """The main effects of the values."""
        return main_effects(self.ranking)

    @cached_property
    def figures(self) -> dict[str, str]:
        """The SVG text of each figure, by its name; empty as long as no run has an objective."""
        if not any(row.objective is not None for row in self.rows):
            return {}
        from tnt_exp.reports import sweep_figures  # imports Matplotlib, which takes half a second

        name = kept_name(self.objective)
        found = {"parallel_coordinates": sweep_figures.parallel_coordinates(self.rows, name, maximize=self.maximize)}
        for key in dict.fromkeys(key for row in self.rows for key in row.params):
            found[f"objective_against_{key}"] = sweep_figures.objective_scatter(self.rows, key, name)
        if self.effects:
            found["effect_of_each_value"] = sweep_figures.effects_chart(self.effects, name)
        if self.curves:
            found["curves_of_the_best"] = sweep_figures.best_curves(self.curves, self.objective)
        return found


def render_page(sweep: SweepResults) -> str:
    """Return the HTML of the page."""
    body = [
        f"<h1>Sweep {escape(sweep.id)}</h1>",
        f'<p class="sub">{escape(sweep.place)} · {"highest" if sweep.maximize else "lowest"} '
        f"{escape(kept_name(sweep.objective))} first</p>",
        f'<ul id="verdict">{"".join(f"<li>{escape(line)}</li>" for line in sweep.verdict)}</ul>',
        _settings(sweep.ranking),
        _tiles(sweep),
        "<h2>Leaderboard</h2>",
        _leaderboard(sweep),
        _figures(sweep),
        _failures(sweep.rows),
        _commands(sweep.rows),
    ]
    return render_html(f"Sweep {escape(sweep.id)}", "".join(body))


def render_html(title: str, body: str) -> str:
    """Return a page, complete in one file, whose tables are sorted by a click."""
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>{title}</title><style>{_CSS}</style>"
    script = f"<script>{_SORT}</script>"
    return f'<!DOCTYPE html><html lang="en"><head>{head}</head><body><main>{body}</main>{script}</body></html>\n'


def _figures(sweep: SweepResults) -> str:
    """Return the figures, each under its title."""
    found = sweep.figures
    if not found:
        return ""
    scatters = "".join(f'<div class="card">{svg}</div>' for name, svg in found.items() if name.startswith("objective_"))
    blocks = {
        "Parallel coordinates": f'<div class="card" id="parallel">{found["parallel_coordinates"]}</div>',
        "Objective against each swept key": f'<div class="row">{scatters}</div>',
    }
    if sweep.effects:
        rows = "".join(
            f"<tr><td>{escape(key)}</td><td>{share:.0%}</td>"
            f'<td><span class="bar" style="width:{500 * share:.0f}px"></span></td></tr>'
            for key, share in param_importances(sweep.ranking, sweep.effects).items()
        )
        blocks["Importance of each key"] = f'<div class="card"><table id="importances">{rows}</table></div>'
        blocks["Effect of each value"] = f'<div class="card" id="effects">{found["effect_of_each_value"]}</div>'
    if sweep.curves:
        svg = found["curves_of_the_best"]
        blocks[f"Curves of the best {len(sweep.curves)}"] = f'<div class="card" id="curves">{svg}</div>'
    return "".join(f"<h2>{title}</h2>{body}" for title, body in blocks.items())


def _settings(ranking: Sequence[RankedPoint]) -> str:
    place = ranking[0].best.place if ranking and ranking[0].rank else ""
    file = "/".join([*Path(place).parts[-4:], "config.yaml"])  # multirun/sweeps/ID/JOB
    return f'<p class="sub">All settings of the best trial: <code>{escape(file)}</code></p>' if place else ""


def _tiles(sweep: SweepResults) -> str:
    ranking, states = sweep.ranking, [row.state for row in sweep.rows]
    tiles = [(str(len(states)), "runs")]
    tiles += [(str(states.count(name)), name) for name in ("finished", "failed", "pruned", "waiting") if name in states]
    if ranking and ranking[0].mean is not None:
        best, tied = ranking[0], sum(point.rank == 1 for point in ranking) - 1
        spread = f" ± {best.std:.4f}" if best.std is not None else ""
        tiles.append((f"{best.mean:.4f}{spread}", kept_name(sweep.objective)))
        name = ", ".join(f"{key}={value}" for key, value in best.params.items()) or "-"
        tiles.append((name, f"tied as the best with {tied} more" if tied else "best"))
    hours = sum(row.facts.get("total_seconds", 0.0) for row in sweep.rows) / 3600
    tiles.append((f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min", "time of all runs"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles)
        + "</div>"
    )


def _leaderboard(sweep: SweepResults) -> str:
    table = leaderboard_columns(sweep.ranking, sweep.objective)
    head = "".join(f"<th>{escape(name)}</th>" for name in table)
    body = "".join(
        ('<tr class="best">' if row[0] == 1 else "<tr>") + "".join(map(_cell, row)) + "</tr>"
        for row in zip(*table.values(), strict=True)
    )
    return (
        f'<div class="card"><table id="leaderboard"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: object) -> str:
    if value is None:
        return '<td data-v=""></td>'
    if isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
        return f'<td data-v="{value!r}">{text}</td>'
    if isinstance(value, int):
        return f'<td data-v="{value}">{value:,}</td>'
    kind = ' class="failed"' if value == "failed" else ""
    return f"<td{kind}>{escape(str(value))}</td>"


def _failures(rows: Sequence[TrialRow]) -> str:
    failed = [row for row in rows if row.state == "failed"]
    if not failed:
        return ""
    items = "".join(
        f'<p><b class="failed">trial {row.job}</b> {escape(row.label)}: {escape(row.error or "")}<br>'
        f"<code>{escape(row.place)}</code></p>" + (f"<pre>{escape(row.log)}</pre>" if row.log else "")
        for row in failed
    )
    return f'<h2>Failures</h2><div class="card" id="failures">{items}</div>'


def _commands(rows: Sequence[TrialRow]) -> str:
    body = "".join(
        f"<tr><td>{row.job}</td><td>{escape(row.label)}</td><td><code>{escape(row.command)}</code></td></tr>"
        for row in rows
    )
    return (
        '<h2>Commands of the trials</h2><div class="card"><table id="commands"><thead><tr><th>trial</th>'
        f"<th>parameters</th><th>command</th></tr></thead><tbody>{body}</tbody></table></div>"
    )
