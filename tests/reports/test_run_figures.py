"""Pictures of a run: any text is drawn as it is."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from tnt_exp.reports import run_figures

NAMES = ["a$\\frac{$b", "$x$", "100 %", "\\$", "a_b^c", "{", "$$"]


def test_names_of_classes_are_no_mathematics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    save = FigureCanvasAgg.print_png

    def print_png(canvas: FigureCanvasAgg, *arguments: object, **options: object) -> None:
        save(canvas, *arguments, **options)
        texts = canvas.figure.findobj(Text)
        drawn.extend(text.get_text() for text in texts if not text.get_parse_math())

    monkeypatch.setattr(FigureCanvasAgg, "print_png", print_png)
    run_figures.draw_samples(np.zeros((len(NAMES), 4, 4, 1)), NAMES, tmp_path / "samples.png")
    run_figures.draw_confusion_matrix(np.eye(len(NAMES), dtype=int), NAMES, "$\\nothing$", tmp_path / "confusion.png")
    for name in NAMES:
        assert drawn.count(name) >= 3  # above an image, in a row and in a column
    assert "$\\nothing$" in drawn
    for name in ("samples", "confusion"):
        assert imread(tmp_path / f"{name}.png").std() > 0


def test_names_of_many_classes_do_not_cover_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(run_figures, "save_figure", lambda figure, _: drawn.append(figure))
    run_figures.draw_confusion_matrix(np.eye(301, dtype=int), [str(n) for n in range(301)], "", tmp_path / "x.png")
    axes = drawn[0].axes[0]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [str(n) for n in range(0, 301, 3)]
    names = [f"{'a long name ' * 8}{n}" for n in range(4)]
    run_figures.draw_confusion_matrix(np.eye(4, dtype=int), names, "", tmp_path / "x.png")
    run_figures.draw_samples(np.zeros((4, 4, 4, 1)), [f"is\n{name}" for name in names], tmp_path / "x.png")
    drawn[1].draw_without_rendering()  # the layout warned that nothing was left for the matrix
    assert drawn[1].axes[0].get_window_extent().width > drawn[1].bbox.width / 3
    assert [label.get_text()[-8:] for label in drawn[1].axes[0].get_yticklabels()][1] == "… name 1"
    first, second = drawn[2].axes[0].texts[:2]
    assert first.get_window_extent().x1 < second.get_window_extent().x0 + 8


def write_font(file: Path, name: str, letters: str) -> None:
    """A font in which each of some letters is a square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(point)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (800, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": name, "styleName": "Regular", "fullName": name, "psName": name})
    font.setupOS2()
    font.setupPost()
    font.save(file)


def test_fonts_are_found_that_have_the_letters_of_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also fonts that were installed after Matplotlib made its list; what no font has is reported once."""
    write_font(tmp_path / "one.ttf", "Squares", "甲乙")
    write_font(tmp_path / "two.ttf", "More squares", "丙")
    (tmp_path / "no.ttf").write_text("no font")
    monkeypatch.setattr(run_figures.font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(run_figures.font_manager, "findSystemFonts", lambda: list(map(str, tmp_path.iterdir())))
    run_figures._fonts_with.cache_clear()
    try:
        assert run_figures._fonts_with("甲乙丙") == ["Squares", "More squares"]
        assert caplog.messages == []
        for _ in range(2):
            assert run_figures._fonts_with("甲丁") == ["Squares"]
        assert [message[:34] for message in caplog.messages] == ["no font of this machine has 丁: pic"]
    finally:
        run_figures._fonts_with.cache_clear()


@pytest.mark.parametrize("epochs", [1, 2, 300])
@pytest.mark.parametrize("loss", [2.5, 12345.678, 1e-7])
def test_curves_name_whole_epochs_and_lie_inside_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, loss: float
) -> None:
    figures: list[Figure] = []
    save = run_figures.save_figure
    monkeypatch.setattr(run_figures, "save_figure", lambda figure, file: [figures.append(figure), save(figure, file)])
    names = ("train/loss", "val/loss", "train/accuracy", "val/accuracy", "train/learning_rate")
    rows = [{"epoch": epoch, **dict.fromkeys(names, loss / epoch)} for epoch in range(1, epochs + 1)]
    reasons = ["augmented", "smoothed labels", "weighted classes"]
    run_figures.draw_curves(rows, epochs, tmp_path / "curves.png", reasons)
    (figure,) = figures
    (legend,) = figure.legends
    assert figure.bbox.containsx(legend.get_window_extent().x1)
    assert figure.bbox.containsy(legend.get_window_extent().y0)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [text.get_text() for text in axes.get_xticklabels() if low <= text.get_position()[0] <= high]
        assert ticks, "no epoch has a name"
        assert all(tick.isdecimal() for tick in ticks), ticks
        shown = axes.get_tightbbox()
        assert shown is not None
        assert shown.y0 > legend.get_window_extent().y1
        assert figure.bbox.containsx(shown.x0), shown
        assert figure.bbox.containsx(shown.x1), shown
        assert figure.bbox.containsy(shown.y1), shown
    for left, right in itertools.pairwise(figure.axes):
        assert left.get_tightbbox().x1 < right.get_tightbbox().x0, "panels overlap"
