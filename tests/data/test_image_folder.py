import contextlib
import os
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tnt_exp.config import InputError
from tnt_exp.config.dataset import DatasetConfig, OnError, Source
from tnt_exp.data import load
from tnt_exp.data.image_folder import decode


def folder(path: Path, size: int = 4, **options: Any) -> DatasetConfig:
    options = {"validation_fraction": 0, "test_fraction": 0.25} | options
    return DatasetConfig(name=Source.image_folder, path=str(path), image_size=size, **options)


def paint(file: Path, level: int, size: tuple[int, int] = (4, 4)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(file)


def levels(split: Any) -> list[int]:
    """The grey level of each image, by which `paint` tells them apart."""
    return [int(image[0, 0, 0]) for image in split.images]


def classes(root: Path, names: str = "ab", images: int = 8) -> Path:
    for number, name in enumerate(names):
        for image in range(images):
            paint(root / name / f"{image}.png", 100 * number + image)
    return root


def test_class_folders_are_split_by_fraction(tmp_path: Path) -> None:
    dataset = load(folder(classes(tmp_path), validation_fraction=1 / 6))
    assert dataset.class_names == ("a", "b")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [10, 2, 4]
    assert dataset.image_shape == (4, 4, 3)
    assert dataset.skipped == 0
    for split in (dataset.train, dataset.validation, dataset.test):
        assert [level // 100 for level in levels(split)] == split.labels.tolist()
    together = levels(dataset.train) + levels(dataset.validation) + levels(dataset.test)
    assert sorted(together) == [*range(8), *range(100, 108)]
    assert load(folder(tmp_path, validation_fraction=1 / 6)).digest == dataset.digest


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Validation"])
def test_parts_in_folders(tmp_path: Path, validation: str) -> None:
    classes(tmp_path / "train", "abc")
    classes(tmp_path / validation, "abc", 2)
    classes(tmp_path / "test", "ac", 3)
    dataset = load(folder(tmp_path, validation_fraction=0.5, train_limit=12))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [12, 6, 6]
    assert np.bincount(dataset.train.labels).tolist() == [4, 4, 4]
    assert dataset.test.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert dataset.class_names == ("a", "b", "c")


def test_a_training_folder_alone_is_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes(tmp_path / "train")
    (tmp_path / "raw").mkdir()
    dataset = load(folder(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (12, 4)
    assert "folder raw beside train is not read" in caplog.text


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("car", "train"):
        for image in range(4):
            paint(tmp_path / name / f"{image}.png", image)
    assert load(folder(tmp_path)).class_names == ("car", "train")


def test_only_chosen_images_are_decoded(tmp_path: Path) -> None:
    classes(tmp_path)
    few = load(folder(tmp_path, train_limit=2))
    kept = set(levels(few.train) + levels(few.test))
    for file in tmp_path.glob("*/*.png"):
        if 100 * "ab".index(file.parent.name) + int(file.stem) not in kept:
            file.write_bytes(b"damage that nothing reads")
    assert load(folder(tmp_path, train_limit=2)).digest == few.digest


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    classes(tmp_path)
    for name in (".DS_Store", "a/.DS_Store", "a/._0.png", "a/Thumbs.db", "a/notes.txt", "README.md"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    paint(tmp_path / "a" / "deeper" / "UPPER.PNG", 50)
    dataset = load(folder(tmp_path))
    assert dataset.class_names == ("a", "b")
    assert len(dataset.train) + len(dataset.test) == 17


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = tmp_path / "root"
    classes(root)
    paint(tmp_path / "elsewhere" / "x.png", 200)
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "self").symlink_to(root / "a")
    (tmp_path / "elsewhere" / "up").symlink_to(root / "a")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    paint(root / "c" / "y.png", 201)
    dataset = load(folder(root))
    assert dataset.class_names == ("a", "b", "c")
    # c holds its own two and, through a link, the eight of a.
    assert np.bincount(np.concatenate([dataset.train.labels, dataset.test.labels])).tolist() == [8, 8, 10]


def test_names_are_one_whatever_the_file_system(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    composed, apart = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    for image in range(4):
        paint(tmp_path / "train" / composed / f"{image} größe.png", image)
        paint(tmp_path / "train" / "日本" / f"{image}.png", image)
        paint(tmp_path / "test" / apart / f"{image}.png", image)
    no_utf8 = tmp_path / "train" / os.fsdecode(b"\xff\xfe")
    paint(no_utf8 / "0.png", 1)
    (no_utf8 / "1.png").write_bytes(b"damaged")
    dataset = load(folder(tmp_path, on_error=OnError.skip))
    assert dataset.class_names == ("é", "日本", "\ufffd\ufffd")
    assert dataset.test.labels.tolist() == [0, 0, 0, 0]
    assert "\ufffd\ufffd/1.png" in caplog.text
    caplog.text.encode()


def test_an_unreadable_image_stops_and_is_named(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    whole = (tmp_path / "train" / "a" / "3.png").read_bytes()
    for name, content in (("a/3.png", whole[: len(whole) // 2]), ("a/5.png", b""), ("b/1.png", b"<html>")):
        (tmp_path / "train" / name).write_bytes(content)
    with pytest.raises(InputError, match=r"a/3\.png: truncated, .*dataset\.on_error=skip") as raised:
        load(folder(tmp_path))
    assert "\n" not in str(raised.value)


def test_unreadable_images_are_skipped_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes(tmp_path)
    (tmp_path / "a" / "3.png").write_bytes(b"<html>")
    (tmp_path / "b" / "1.png").unlink()
    (tmp_path / "b" / "1.png").symlink_to("nowhere")
    dataset = load(folder(tmp_path, on_error=OnError.skip))
    assert dataset.skipped == 2
    assert sorted(levels(dataset.train) + levels(dataset.test)) == sorted(
        [level for level in [*range(8), *range(100, 108)] if level not in (3, 101)]
    )
    assert "a/3.png: truncated" in caplog.text
    assert "b/1.png: cannot be read: No such file" in caplog.text
    for split in (dataset.train, dataset.test):
        assert [level // 100 for level in levels(split)] == split.labels.tolist()


def test_nothing_readable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    for file in classes(tmp_path).glob("*/*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="expected training images, received 12 files, none of which can be read"):
        load(folder(tmp_path, on_error=OnError.skip))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "expected two or more class folders, received none"),
        (["a/0.png"], "expected two or more class folders, received a;"),
        (["0.png", "1.png"], "expected two or more class folders, received none"),
        (["a/0.png", "b/"], "b: expected images .* of a class, received none"),
        (["a/0.png", "b/notes.txt"], "b: expected images .* of a class, received none"),
        (["train/a/0.png"], "expected two or more class folders, received a;"),
        (["train/a/0.png", "train/b/0.png", "test/c/0.png"], "test: expected class folders .* received c;"),
        (["train/a/0.png", "train/b/0.png", "test/0.png"], "test: expected class folders .* received none;"),
        (
            ["train/a/0.png", "train/b/0.png", "val/a/0.png", "valid/a/0.png"],
            "one validation folder, received val, valid",
        ),
    ],
)
def test_folders_of_another_form(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        if name.endswith(".png"):
            paint(tmp_path / name, 0)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(InputError, match=message) as raised:
        load(folder(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_memory_is_asked_for_before_it_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.image_size=1000000: 12 images need 36000\.0 GB"):
        load(folder(classes(tmp_path), size=1_000_000))


def test_decoding_keeps_the_middle(tmp_path: Path) -> None:
    # 12 x 4: a red, a green and a blue square; the middle one stays.
    wide = np.repeat(np.repeat(np.eye(3, dtype=np.uint8)[None] * 255, 4, 0), 4, 1)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    for name in ("wide.png", "tall.png"):
        assert (decode(tmp_path / name, 4, 3) == [0, 255, 0]).all()
        assert (decode(tmp_path / name, 4, 1) == 150).all()  # the luma of green, ITU-R 601


def test_decoding_resizes_the_whole_image_and_then_crops(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    resized = np.asarray(Image.fromarray(pixels).resize((14, 10), Image.Resampling.BICUBIC), int)
    assert np.abs(decode(tmp_path / "x.png", 10, 3) - resized[:, 2:12]).max() <= 1


def test_an_image_of_the_size_is_not_touched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 9, 3), pixels)


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
    np.testing.assert_array_equal(decode(tmp_path / "x.png", 6, 3), upright)


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
        ("photo.jpg", lambda: Image.new("RGB", (640, 480), (90, 90, 90)), 90),
        ("web.webp", lambda: Image.new("RGB", (8, 8), (90, 90, 90)), 90),
        ("plain.bmp", lambda: Image.new("RGB", (4, 4), (90, 90, 90)), 90),
    ],
)
def test_modes_and_formats(
    tmp_path: Path, name: str, make: Callable[[], Image.Image], level: int, channels: int
) -> None:
    make().save(tmp_path / name)
    decoded = decode(tmp_path / name, 4, channels)
    assert (decoded.shape, decoded.dtype) == ((4, 4, channels), np.uint8)
    assert np.abs(decoded.astype(int) - level).max() <= 1


def test_a_palette_with_transparency_warns_of_nothing(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "x.png", transparency=b"\x80\xff")
    assert decode(tmp_path / "x.png", 4, 3)[0, 0].tolist() == [10, 20, 30]


def test_levels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif: .*mode F"):
        decode(tmp_path / "x.tif", 4, 3)


def test_large_photos_shrink_as_without_the_short_cut(tmp_path: Path) -> None:
    y, x = np.mgrid[:600, :800] / 800
    photo = np.stack([127 + 120 * np.sin(9 * x), 127 + 120 * np.sin(7 * y), 127 + 120 * np.cos(5 * x * y)], -1)
    image = Image.fromarray(photo.astype(np.uint8))
    image.save(tmp_path / "x.jpg", quality=95)
    image.save(tmp_path / "x.png")
    difference = decode(tmp_path / "x.jpg", 32, 3).astype(int) - decode(tmp_path / "x.png", 32, 3)
    assert np.abs(difference).max() <= 4


def test_an_early_error_does_not_wait_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tnt_exp.data import image_folder

    decoded = []

    def slowly(file: Path, size: int, channels: int) -> np.ndarray:
        decoded.append(file)
        if file.name == "0.png" and file.parent.name == "a":
            raise InputError(f"{file}: damaged")
        time.sleep(0.001)
        return np.zeros((size, size, channels), np.uint8)

    monkeypatch.setattr(image_folder, "decode", slowly)
    for name in "ab":
        (tmp_path / name).mkdir()
        for image in range(1000):
            (tmp_path / name / f"{image}.png").touch()
    with pytest.raises(InputError, match="damaged"):
        load(folder(tmp_path, test_fraction=0.0006))
    assert len(decoded) < 1000


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
    with contextlib.suppress(InputError):
        assert decode(path, 5, 3).shape == (5, 5, 3)
