"""`tnt-exp explain`: attention as a picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tnt_exp.cli import main
from tnt_exp.reports.attention import AttentionMaps


def test_one_picture_of_one_image(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(tmp_path / "noise.png")
    assert main(["explain", str(run_folder), str(tmp_path / "noise.png")]) == 0
    assert "noise.png" in capsys.readouterr().out
    picture = np.asarray(Image.open(run_folder / "explained/noise.png"))
    assert picture.shape[1] > 800
    assert picture.std() > 20


@pytest.mark.parametrize("make", [lambda file: None, lambda file: file.write_bytes(b"damaged")])
def test_unreadable_image_is_named(
    run_folder: Path, tmp_path: Path, make: object, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "picture.png")
    assert main(["explain", str(run_folder), str(tmp_path / "picture.png")]) == 2
    error = capsys.readouterr().err
    assert "picture.png" in error
    assert len(error.splitlines()) == 1


def test_rollout_follows_the_way_through_the_blocks() -> None:
    # Four patches and a class token. The class token looks at patch 2 only, and in the block before, patch 2 at 3.
    last, first = np.tile(np.eye(5), (2, 1, 1)), np.tile(np.eye(5), (2, 1, 1))
    last[:, 0] = np.eye(5)[3]
    first[:, 3] = np.eye(5)[4]
    maps = AttentionMaps([first, last], np.ones((4, 2, 4, 4)) / 4, class_token=True)
    # The class token keeps half; the other half comes from patch 2, half of which came from patch 3.
    assert maps.rollout().ravel() == pytest.approx([0, 0, 0.5, 0.5])
    assert maps.heads().shape == (2, 2, 2)
    assert maps.heads()[0].ravel().tolist() == [0, 0, 1, 0]


def test_without_a_class_token_all_patches_ask() -> None:
    maps = AttentionMaps([np.tile(np.eye(4), (1, 1, 1))], np.ones((4, 1, 9, 9)) / 9, class_token=False)
    assert maps.rollout().ravel() == pytest.approx([0.25] * 4)
    assert maps.pixels().shape == (4, 1, 3, 3)
    assert np.allclose(maps.pixels(), 1 / 9)
