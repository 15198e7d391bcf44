import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tnt_exp.config.compose import options

ROOT = Path(__file__).resolve().parents[1]


def test_a_sheet_is_drawn_of_every_preset_and_every_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "augmentation_pictures.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    monkeypatch.setattr(module, "SIZE", 32)
    monkeypatch.setattr(module, "STEPS", (2,))
    own = tmp_path / "own"
    own.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8))
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(own / f"{number}.png")
    assert module.main(["--images", str(own), "--output", str(tmp_path / "out")]) == 0

    sheets = {f"{group}_{kind}" for group in ("options", "operations") for kind in ("geometry", "colour")}
    sheets |= set(options("augmentation"))
    drawn = {file.stem: np.asarray(Image.open(file).convert("RGB")) for file in (tmp_path / "out").iterdir()}
    assert set(drawn) == sheets
    committed = {file.stem: file for file in (ROOT / "docs" / "pictures" / "augmentation").iterdir()}
    assert set(committed) == sheets, "make pictures"
    text = (ROOT / "docs" / "augmentation.md").read_text()
    for name, file in committed.items():
        assert file.stat().st_size < 300_000
        assert f"pictures/augmentation/{name}.png" in text
    # A row is a label and images; those of `none` are alike, those of the others are not.
    height = module.SIZE + module.MARGIN + module.LABEL
    for name in options("augmentation"):
        before, after = (drawn[name][row * height + module.LABEL :][: module.SIZE].astype(int) for row in range(2))
        apart = np.abs(after - before).mean()
        assert apart < 4 if name == "none" else apart > 10, f"{name}: {apart}"
