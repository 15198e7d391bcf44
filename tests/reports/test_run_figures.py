"""Pictures of a run: any text is drawn as it is."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from tnt_exp.reports import run_figures

NAMES = ["a$\\frac{$b", "$x$", "100 %", "\\$", "a_b^c", "{", "$$"]


def test_names_of_classes_are_no_mathematics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    save = Figure.savefig

    def savefig(figure: Figure, *arguments: object, **options: object) -> None:
        save(figure, *arguments, **options)
        texts = figure.findobj(Text)
        drawn.extend(text.get_text() for text in texts if not text.get_parse_math())

    monkeypatch.setattr(Figure, "savefig", savefig)
    run_figures.draw_samples(np.zeros((len(NAMES), 4, 4, 1)), NAMES, tmp_path / "samples.png")
    run_figures.draw_confusion_matrix(np.eye(len(NAMES), dtype=int), NAMES, "$\\nothing$", tmp_path / "confusion.png")
    for name in NAMES:
        assert drawn.count(name) >= 3  # above an image, in a row and in a column
    assert "$\\nothing$" in drawn
    for name in ("samples", "confusion"):
        assert imread(tmp_path / f"{name}.png").std() > 0
