import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tnt_exp.data.image_files import decode_image
from tnt_exp.errors import UserError


def test_decoding_keeps_the_middle(tmp_path: Path) -> None:
    # 12 x 4: a red, a green and a blue square; the middle one stays.
    wide = np.repeat(np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 4, 0), 4, 1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        assert (decode_image(tmp_path / name, 4, 3) == [0, 255, 0]).all()
        assert (decode_image(tmp_path / name, 4, 1) == 150).all()  # the luma of green, ITU-R 601


def test_decoding_resizes_the_whole_image_and_then_crops(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    resized = np.asarray(Image.fromarray(pixels).resize((14, 10), Image.Resampling.BICUBIC), int)
    assert np.abs(decode_image(tmp_path / "x.png", 10, 3) - resized[:, 2:12]).max() <= 1


def test_an_image_of_the_size_is_not_touched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 9, 3), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_exif_says(tmp_path: Path, orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    stored = {  # what a camera writes, so that the viewer turns it back
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(decode_image(tmp_path / "x.png", 6, 3), upright)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("name", "make", "level"),
    [
        ("grey.png", lambda: Image.new("L", (4, 4), 90), 90),
        ("bits.png", lambda: Image.new("1", (4, 4), 1), 255),
        ("deep.png", lambda: Image.fromarray(np.full((4, 4), 0x5A5A, np.uint16)), 90),
        ("deep.tif", lambda: Image.fromarray(np.full((4, 4), 0x5A5A, np.uint16)), 90),
        ("alpha.png", lambda: Image.new("RGBA", (4, 4), (90, 90, 90, 10)), 90),
        ("grey_alpha.png", lambda: Image.new("LA", (4, 4), (90, 10)), 90),
        ("palette.gif", lambda: Image.new("L", (4, 4), 90).convert("P"), 90),
        ("cmyk.jpg", lambda: Image.new("CMYK", (8, 8), (0, 0, 0, 165)), 90),
        ("lab.tif", lambda: Image.new("LAB", (4, 4), (97, 128, 128)), 90),
        ("photo.jpg", lambda: Image.new("RGB", (640, 480), (90, 90, 90)), 90),
        ("web.webp", lambda: Image.new("RGB", (8, 8), (90, 90, 90)), 90),
        ("plain.bmp", lambda: Image.new("RGB", (4, 4), (90, 90, 90)), 90),
    ],
)
def test_modes_and_formats(
    tmp_path: Path, name: str, make: Callable[[], Image.Image], level: int, channels: int
) -> None:
    make().save(tmp_path / name)
    decoded = decode_image(tmp_path / name, 4, channels)
    assert (decoded.shape, decoded.dtype) == ((4, 4, channels), np.uint8)
    assert np.abs(decoded.astype(int) - level).max() <= 1


def test_a_palette_with_transparency_warns_of_nothing(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "x.png", transparency=b"\x80\xff")
    assert decode_image(tmp_path / "x.png", 4, 3)[0, 0].tolist() == [10, 20, 30]


def test_levels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: .*32 bits, whose range of levels is unknown"):
        decode_image(tmp_path / "x.tif", 4, 3)


def test_large_photos_shrink_as_without_the_short_cut(tmp_path: Path) -> None:
    y, x = np.mgrid[:600, :800] / 800
    photo = np.stack([127 + 120 * np.sin(9 * x), 127 + 120 * np.sin(7 * y), 127 + 120 * np.cos(5 * x * y)], -1)
    image = Image.fromarray(photo.astype(np.uint8))
    image.save(tmp_path / "x.jpg", quality=95)
    image.save(tmp_path / "x.png")
    difference = decode_image(tmp_path / "x.jpg", 32, 3).astype(int) - decode_image(tmp_path / "x.png", 32, 3)
    assert np.abs(difference).max() <= 4


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"]),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
    keep=st.just(1.0) | st.floats(0, 1),
)
def test_any_damage_decodes_or_is_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, edits: list[tuple[int, int]], keep: float
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"x.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    for where, value in edits:
        content[where % len(content)] = value
    path.write_bytes(content[: int(keep * len(content))])
    with contextlib.suppress(UserError):
        assert decode_image(path, 5, 3).shape == (5, 5, 3)
