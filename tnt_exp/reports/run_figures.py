"""Figures of one run, as PNG files."""

import logging
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from tnt_exp.formatting import shorten

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it logs that it builds a list of fonts

log = logging.getLogger("tnt_exp")

_FONT = "DejaVu Sans"  # comes with Matplotlib
LEGEND = 115  # letters of a line that a legend has room for
_TRAIN, _VALIDATION, _CHOSEN = "#3b6ea8", "#d1662b", "#777777"


def save_figure(figure: Figure, file: Path) -> None:
    """Write a PNG file; text is drawn as it is, not as mathematics, in a font that has its letters if there is one."""
    canvas = FigureCanvasAgg(figure)
    texts: list[Text] = figure.findobj(Text)
    letters = "".join(sorted(set().union(*(text.get_text() for text in texts))))
    fonts = [_FONT, *_fonts_with(_lacking(font_manager.findfont(_FONT), letters))]
    for text in texts:
        text.set_parse_math(False)
        text.set_fontfamily(fonts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that no font has becomes an empty box
        figure.set_dpi(120)
        canvas.print_png(file)  # type: ignore[no-untyped-call]  # `savefig` draws twice


@cache
def _fonts_with(missing: str) -> list[str]:
    """Return fonts of this machine that together have these letters, as far as there are any."""
    fonts, files = [], _font_files() if missing else {}
    while missing:
        lacks = {name: _lacking(file, missing) for name, file in sorted(files.items())}
        best = min(lacks, key=lambda name: len(lacks[name]))
        if lacks[best] == missing:
            log.warning("no font of this machine has %s: pictures show boxes instead; install one", missing[:20])
            break
        fonts.append(best)
        missing = lacks[best]
    return fonts


def _font_files() -> dict[str, str]:
    """Return name: file of the fonts of this machine, also of those that Matplotlib's list does not know yet."""
    manager = font_manager.fontManager
    for file in {*font_manager.findSystemFonts()} - {font.fname for font in manager.ttflist}:
        with suppress(RuntimeError, OSError):  # not a font that Matplotlib can read
            manager.addfont(file)
    # Its last resort has a box for every letter.
    return {font.name: font.fname for font in manager.ttflist if "LastResort" not in font.fname}


def _lacking(file: str, letters: str) -> str:
    """Return the letters that a font lacks; those without a shape of their own count as there."""
    font = font_manager.get_font(file)
    return "".join(letter for letter in letters if letter.isprintable() and not font.get_char_index(ord(letter)))


def draw_curves(rows: Sequence[Mapping[str, float]], chosen: int, file: Path, training: Sequence[str] = ()) -> None:
    """Draw loss, accuracy and learning rate over epochs, from rows of `metrics.csv`.

    A line marks the chosen epoch, whose weights were kept. `training` says in words why the values of training are not
    comparable with those of validation.
    """
    remark = f" ({', '.join(training)})" if training else ""
    figure = Figure(figsize=(12, 4.4))
    margins = {"left": 0.05, "right": 0.985, "bottom": 0.21, "top": 0.91, "wspace": 0.2}
    panels = figure.subplots(1, 3, gridspec_kw=margins)
    epochs = [row["epoch"] for row in rows]
    for axes, name, title in zip(panels[:2], ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True):
        _line(axes, epochs, rows, f"train/{name}", _TRAIN, f"train{remark}")
        _line(axes, epochs, rows, f"val/{name}", _VALIDATION, "validation")
        axes.axvline(chosen, color=_CHOSEN, linewidth=0.8, linestyle=":", label=f"kept: epoch {chosen}")
        axes.set(title=title, xlabel="Epoch")
    _line(panels[2], epochs, rows, "train/learning_rate", _TRAIN, None)
    panels[2].set(title="Learning rate (end of the epoch)", xlabel="Epoch")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower left", ncols=3, frameon=False)
    panels[2].set_ylim(bottom=0)
    for axes in panels:
        open_frame(axes)
    save_figure(figure, file)


def overlaid_curves(curves: Mapping[str, Mapping[str, Sequence[Sequence[tuple[float, float]]]]]) -> Figure:
    """Draw the curves of groups of runs over each other: one panel per metric, one colour per group.

    The curves are by metric and by group: of each run the (epoch, value) pairs.
    """
    groups = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    labels = [textwrap.fill(name, LEGEND) for name in groups]
    figure = Figure(figsize=(11.0, 3.0 + 0.22 * len("\n".join(labels).splitlines())), layout="constrained")
    panels = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
    for axes, (metric, panel) in zip(panels, curves.items(), strict=False):
        for name, lines in panel.items():
            color = f"C{groups.index(name) % 10}"
            for line in lines:
                alpha, marker = 1 / len(lines) ** 0.5, "o" if len(line) < 3 else None
                axes.plot(*zip(*line, strict=True), color=color, alpha=alpha, marker=marker)
        axes.set(title=metric, xlabel="Epoch")
        open_frame(axes)
    for number, label in enumerate(labels):
        panels[0].plot([], [], color=f"C{number % 10}", label=label)
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def open_frame(axes: Axes, *, epochs: bool = True) -> None:
    """Draw a grid, and no frame above and at the right; `epochs`: the horizontal axis has whole numbers."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if epochs:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _line(
    axes: Axes, epochs: Sequence[float], rows: Sequence[Mapping[str, float]], key: str, color: str, label: str | None
) -> None:
    if key in rows[0]:
        values = [row[key] for row in rows]
        axes.plot(epochs, values, color=color, label=label, marker="o" if len(rows) < 3 else None)


def draw_image(axes: Axes, image: np.ndarray, title: str) -> None:
    """Draw an image, float (H, W, 1 or 3) in [0, 1], with a line above it."""
    image = np.clip(image, 0, 1)
    axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)


def draw_samples(
    images: np.ndarray, titles: Sequence[str], file: Path, *, columns: int = 8, caption: str | None = None
) -> None:
    """Draw a sheet of images, float (N, H, W, 1 or 3) in [0, 1], with a line above each and a caption above all.

    The sheet is one image with texts: axes of their own for each of a hundred images would take seconds.
    """
    count, height, width, _ = images.shape
    gap, inches = max(1, width // 12), 12 / columns
    titles = ["\n".join(shorten(line, int(15 * inches), 7) for line in title.split("\n")) for title in titles]
    lines = max(title.count("\n") + 1 for title in titles)
    label = math.ceil((0.16 * lines + 0.06) * (width + gap) / inches)  # pixels for the lines above an image
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (label + height), columns * (width + gap) - gap, 3), 255, np.uint8)
    sheet_height = inches * rows * (label + height) / (width + gap)
    size = max(inches * columns, 8.0), sheet_height + 0.4
    figure = Figure(figsize=size)
    axes = figure.add_axes((0.01, 0.0, 0.98, sheet_height / size[1]), xticks=(), yticks=())
    for index, title in enumerate(titles):
        top, left = (index // columns) * (label + height) + label, (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = np.clip(images[index], 0, 1) * 255
        axes.text(left - 0.5, top - 0.5 - 0.1 * label, title, fontsize=8, va="bottom", clip_on=True)
    axes.imshow(sheet, interpolation="nearest")
    axes.axis("off")
    if caption:
        axes.set_title(caption, fontsize=9, loc="left")
    save_figure(figure, file)


def draw_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], title: str, file: Path) -> None:
    """Draw a confusion matrix, int (classes, classes): row = true class, column = predicted class.

    Each row is divided by its sum; counts and names are written as far as they are legible.
    """
    classes, class_names = len(matrix), [shorten(name, 30, 7) for name in class_names]
    side = min(16.0, max(5.0, 0.42 * classes + 2) + 0.07 * max(0, max(map(len, class_names)) - 12))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    part = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="Predicted", ylabel="True")
    size, every = 9 if classes <= 30 else 5, -(-classes // 150)  # more names would cover each other
    axes.set_xticks(range(0, classes, every), class_names[::every], rotation=90, fontsize=size)
    axes.set_yticks(range(0, classes, every), class_names[::every], fontsize=size)
    if classes <= 30:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if part[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(shown, ax=axes, fraction=0.04, label="fraction of the true class")
    save_figure(figure, file)
