"""Figures of a sweep as SVG text: parallel coordinates, the objective against each key, curves, effects.

Drawn by matplotlib. Each run carries a tooltip, and is highlighted where the pointer is.
"""

import io
import math
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from tnt_exp.formatting import as_number, shorten
from tnt_exp.reports.leaderboard import MainEffect, TrialRow
from tnt_exp.reports.run_figures import LEGEND, open_frame

_COLORS = matplotlib.colormaps["Blues"]  # of the runs below rank 1, paler the lower they rank
_BEST = "#c1121f"
_LINES = matplotlib.colormaps["tab10"]
_SVG = "http://www.w3.org/2000/svg"
_STYLE = ".run:hover{stroke:#e0115f!important;stroke-width:4!important;opacity:1!important}"
_LABEL = (24, 14)  # letters of a value on an axis, and those of its end, in which values of one key differ
_RUNS = "runs"  # id of the group whose elements are runs, in order


@dataclass(frozen=True)
class Axis:
    """Positions of values on an axis of length 1."""

    ticks: list[tuple[float, str]]  # positions and labels
    categories: tuple[str, ...] = ()  # text values in order; empty for numbers
    low: float = 0.0  # range of numbers; on a logarithmic axis their logarithms
    high: float = 1.0
    log: bool = False

    def position(self, value: str | float) -> float | None:
        """Return the position in [0, 1], or None for a value that is not on the axis."""
        if self.categories:
            text = str(value)
            return _place(self.categories.index(text), len(self.categories)) if text in self.categories else None
        number = as_number(value)
        if number is None or (self.log and number <= 0):
            return None
        number = math.log10(number) if self.log else number
        return 0.5 if self.high == self.low else (number - self.low) / (self.high - self.low)


def axis(values: Sequence[str | float], *, may_be_log: bool = True) -> Axis:
    """Return the axis of some values: numeric if all of them are numbers, else categorical.

    If it may be, a numeric axis is logarithmic where the values span nearly two decades.
    """
    numbers = [as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if not known or len(known) < len(numbers):
        names = tuple(dict.fromkeys(str(value) for value in values))
        return Axis([(_place(index, len(names)), name) for index, name in enumerate(names)], names)
    low, high = min(known), max(known)
    log = may_be_log and low > 0 and high / low >= 50
    distinct = sorted(set(known))
    found = Axis([], (), math.log10(low) if log else low, math.log10(high) if log else high, log)
    shown = distinct if len(distinct) <= 6 else _round_numbers(low, high, log)
    found.ticks.extend((place, f"{value:.4g}") for value in shown if (place := found.position(value)) is not None)
    return found


def _place(index: int, count: int) -> float:
    return 0.5 if count == 1 else index / (count - 1)


def _round_numbers(low: float, high: float, log: bool) -> list[float]:
    if log:
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        inner = [10.0**decade for decade in decades]
        return inner if len(inner) > 1 else [low, high]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (step * factor) <= 6)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def parallel_coordinates(rows: Sequence[TrialRow], objective: str, *, maximize: bool) -> str:
    """Draw parallel coordinates: one axis per swept key, the objective last, one line per run that has an objective."""
    shown = [row for row in rows if row.objective is not None]
    shown.sort(key=lambda row: row.objective or 0.0, reverse=not maximize)  # the best are drawn last, on top
    keys = list(dict.fromkeys(key for row in shown for key in row.params))
    scales = [axis([row.params[key] for row in shown if key in row.params]) for key in keys]
    scales.append(axis([row.objective for row in shown if row.objective is not None], may_be_log=False))
    figure = Figure(figsize=(max(11.0, 1.6 * len(scales)), 4.2), layout="constrained")
    axes = figure.subplots()
    lines = []
    for row in shown:
        values = [*(row.params.get(key) for key in keys), row.objective]
        places = [None if value is None else scale.position(value) for value, scale in zip(values, scales, strict=True)]
        lines.append([(column, place) for column, place in enumerate(places) if place is not None])
    # Colours by rank, so that one bad run does not make all others look alike; equal runs look alike.
    ranked = sorted({row.objective or 0.0 for row in shown}, reverse=not maximize)
    ranks = [ranked.index(row.objective or 0.0) / max(len(ranked) - 1, 1) for row in shown]
    ended = [row.objective for row in shown if row.state == "finished"]  # no pruned run is the best
    best = [row.state == "finished" and row.objective == ended[-1] for row in shown]
    colors = [_BEST if first else _COLORS(0.3 + 0.6 * rank) for first, rank in zip(best, ranks, strict=True)]
    widths = [2.6 if first else 1.4 for first in best]
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=widths, alpha=0.9, gid=_RUNS))
    for color, label in ((_BEST, "best"), (_COLORS(0.9), "next"), (_COLORS(0.3), "last")):
        axes.plot([], [], color=color, label=label)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    for column, (name, scale) in enumerate(zip([*keys, objective], scales, strict=True)):
        axes.vlines(column, -0.03, 1.03, color="#888888", linewidth=1)
        axes.text(column, 1.06 if column % 2 == 0 else 1.13, name, ha="center", weight="bold", fontsize=9)
        for place, label in scale.ticks:
            halo = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
            axes.text(column + 0.02, place, shorten(label, *_LABEL), va="center", fontsize=8, bbox=halo)
    axes.set(xlim=(-0.15, len(scales) - 0.75), ylim=(-0.04, 1.2))
    axes.axis("off")
    return to_svg(figure, "Parallel coordinates", [_label(row) for row in shown])


def objective_scatter(rows: Sequence[TrialRow], key: str, objective: str) -> str:
    """Draw the objective against one swept key, one dot per run."""
    shown = [row for row in rows if row.objective is not None and key in row.params]
    scale = axis([row.params[key] for row in shown])
    figure = Figure(figsize=(3.6, 2.8), layout="constrained")
    axes = figure.subplots()
    placed = [(place, row) for row in shown if (place := scale.position(row.params[key])) is not None]
    x, y = [place for place, _ in placed], [row.objective or 0.0 for _, row in placed]
    axes.scatter(x, y, s=36, color=_LINES(0), alpha=0.65, gid=_RUNS)
    labels = [shorten(label, *_LABEL) for _, label in scale.ticks]
    axes.set_xticks([place for place, _ in scale.ticks], labels, fontsize=8)
    if sum(map(len, labels)) > 40:  # they would overlap
        for text in axes.get_xticklabels():
            text.set(rotation=25, ha="right", rotation_mode="anchor")
    axes.set(xlabel=key, ylabel=objective, xlim=(-0.06, 1.06))
    open_frame(axes, epochs=False)
    return to_svg(figure, f"{objective} against {key}", [_label(row) for _, row in placed])


def best_curves(best: Mapping[str, Sequence[tuple[float, float]]], metric: str) -> str:
    """Draw a metric over the epochs, one line per run: its (epoch, value) pairs, by its label."""
    labels = [textwrap.fill(label, LEGEND) for label in best]
    figure = Figure(figsize=(11.0, 3.4 + 0.2 * len("\n".join(labels).splitlines())), layout="constrained")
    axes = figure.subplots()
    colors = [_LINES(number % 10) for number in range(len(best))]
    for color, label, points in zip(colors, labels, best.values(), strict=True):
        axes.plot([], [], color=color, label=label)  # for the legend
        if len(points) == 1:
            axes.plot(*points[0], "o", color=color)
    axes.add_collection(LineCollection(list(best.values()), colors=colors, linewidths=1.6, gid=_RUNS))
    axes.autoscale()
    axes.set(xlabel="epoch", ylabel=metric)
    open_frame(axes)
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    return to_svg(figure, f"{metric} of the best runs", list(best))


def effects_chart(found: Sequence[MainEffect], objective: str) -> str:
    """Draw the difference of each value from the first value of its key, with its standard error.

    The effects of one key are neighbours.
    """
    figure = Figure(figsize=(11.0, 0.9 + 0.26 * len(found)), layout="constrained")
    axes = figure.subplots()
    labels, key = [], ""
    for number, item in enumerate(found):
        difference = f"{item.difference:+.4f} \u00b1 {item.error:.4f}"
        if item.key != key:
            difference = "compared with"
            axes.axhline(number - 0.5, color="#dddddd", linewidth=1)
        value = shorten(item.value, *_LABEL)
        labels.append(f"{item.key}   {value}" if item.key != key else value)
        key = item.key
        axes.errorbar(item.difference, number, xerr=item.error, fmt="o", color=_LINES(0), markersize=5)
        axes.annotate(difference, (1.01, number), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(found)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"{objective}: difference from the first value, all else being equal (standard error)")
    open_frame(axes, epochs=False)
    return to_svg(figure, "Effect of each value", [])


def _label(row: TrialRow) -> str:
    params = ", ".join(f"{key}={value}" for key, value in row.params.items())
    return f"job {row.job}: {params}: {row.objective:.6g}"


def to_svg(figure: Figure, title: str, tooltips: Sequence[str]) -> str:
    """Return the figure as an `<svg>` element, with tooltips for the elements of the collection `_RUNS` in order.

    Names are drawn as they are, not as TeX.
    """
    figure.set_canvas(FigureCanvasSVG(figure))
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tnt-exp"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser draws letters that this font lacks
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ET.fromstring(stream.getvalue())
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    heading = ET.Element(f"{{{_SVG}}}title")
    heading.text = title
    style = ET.Element(f"{{{_SVG}}}style")
    style.text = _STYLE
    root[:0] = [heading, style]
    for group in root.iter(f"{{{_SVG}}}g"):
        if group.get("id") == _RUNS:
            marks = [mark for mark in group.iter() if mark.tag in (f"{{{_SVG}}}path", f"{{{_SVG}}}use")]
            drawn = [mark for mark in marks if mark not in [*group.iterfind(f".//{{{_SVG}}}defs/*")]]
            for mark, tooltip in zip(drawn, tooltips, strict=True):
                mark.set("class", "run")
                ET.SubElement(mark, f"{{{_SVG}}}title").text = tooltip
    return ET.tostring(root, encoding="unicode")
