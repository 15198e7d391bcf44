"""Figures of digits, of clothing, of a class with one image, of 100 classes, and of names in Chinese and Arabic."""

import os
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tnt_exp.reports import run_figures
from tnt_exp.reports.leaderboard import TrialRow
from tnt_exp.reports.sweep_page import SweepResults, render_page

CLOTHING = ["T-shirt/top", *["Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]]
KINDS = {
    "digits": ([str(digit) for digit in range(10)], 3),
    "clothing": (CLOTHING, 3),
    "one": (["the only image of its class"], 1),
    "many": ([f"class {number} with a long name" for number in range(100)], 1),
    "scripts": (["猫", "狗狗", "قطة", "كلب"], 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_drawn_without_a_warning(kind: str, tmp_path: Path) -> None:
    names, per_class = KINDS[kind]
    folder = Path(os.environ.get("FIGURES_FOLDER", tmp_path))  # to look at them
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(names)), per_class)
    images = random.random((len(labels), 16, 33, 3))
    columns = 4 if len(labels) <= 40 else 8
    trials = [
        TrialRow(job, {"dataset.path": name, "model.depth": str(depth)}, "finished", 0.5 + job % 7 / 20)
        for job, (name, depth) in enumerate((name, depth) for name in names[:12] for depth in (2, 3))
    ]
    curves = {f"job {row.job}: {row.label}": [(1.0, 0.2), (2.0, row.objective or 0.0)] for row in trials[:8]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_figures.draw_samples(
            images,
            [names[label] for label in labels],
            folder / f"{kind}_samples.png",
            columns=columns,
            caption="Left: plain.",
        )
        matrix = np.eye(len(names), dtype=int) * 5 + random.integers(0, 2, (len(names), len(names)))
        run_figures.draw_confusion_matrix(matrix, names, "test", folder / f"{kind}_confusion.png")
        page = render_page(SweepResults("id", trials, "val/accuracy", True, curves, "folder", 100))
    (folder / f"{kind}_report.html").write_text(page)
    for name in ("samples", "confusion"):
        picture = imread(folder / f"{kind}_{name}.png")
        assert picture.std() > 0.01
        assert max(picture.shape) < 6000
    for svg in page.split("<svg")[1:]:
        ET.fromstring("<svg" + svg.partition("</svg>")[0] + "</svg>")
    assert all(name in page for name in names[:12])
