"""Figures of one run, as PNG files."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it logs that it builds a list of fonts

_TRAIN, _VALIDATION, _CHOSEN = "#3b6ea8", "#d1662b", "#777777"


def save_figure(figure: Figure, file: Path) -> None:
    """Write a PNG file; all text is drawn as it is, not as mathematics."""
    FigureCanvasAgg(figure)
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    figure.savefig(file, dpi=120)


def draw_curves(rows: Sequence[Mapping[str, float]], chosen: int, file: Path) -> None:
    """Draw loss, accuracy and learning rate over epochs, from rows of `metrics.csv`.

    A line marks the chosen epoch, whose weights were kept.
    """
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    for axes, name, title in zip(panels[:2], ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True):
        _line(axes, epochs, rows, f"train/{name}", _TRAIN, "train (augmented)")
        _line(axes, epochs, rows, f"val/{name}", _VALIDATION, "validation")
        axes.axvline(chosen, color=_CHOSEN, linewidth=0.8, linestyle=":", label=f"kept: epoch {chosen}")
        axes.set(title=title, xlabel="Epoch")
        axes.legend(frameon=False)
    _line(panels[2], epochs, rows, "train/learning_rate", _TRAIN, None)
    panels[2].set(title="Learning rate at the end of the epoch", xlabel="Epoch")
    panels[2].set_ylim(bottom=0)
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    save_figure(figure, file)


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


def draw_samples(images: np.ndarray, titles: Sequence[str], file: Path, columns: int = 8) -> None:
    """Draw a sheet of images as the model sees them, float (N, H, W, C) in [0, 1], with a line above each."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    for index, axes in enumerate(np.ravel(figure.subplots(rows, columns, squeeze=False))):
        axes.axis("off")
        if index < len(images):
            draw_image(axes, images[index], titles[index])
    save_figure(figure, file)


def draw_confusion_matrix(matrix: np.ndarray, class_names: Sequence[str], title: str, file: Path) -> None:
    """Draw a confusion matrix, int (classes, classes): row = true class, column = predicted class.

    Each row is divided by its sum; counts are written if they are legible.
    """
    classes = len(matrix)
    side = min(16.0, max(5.0, 0.42 * classes + 2))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    part = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="Predicted", ylabel="True")
    size = 9 if classes <= 30 else 5
    axes.set_xticks(range(classes), class_names, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), class_names, fontsize=size)
    if classes <= 30:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            color = "white" if part[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=color)
    figure.colorbar(shown, ax=axes, fraction=0.04, label="fraction of the true class")
    save_figure(figure, file)
