import os
import time
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tnt_exp.config.dataset import DatasetConfig, OnError, Source
from tnt_exp.data import load_dataset
from tnt_exp.data.sources.image_folder import read_files
from tnt_exp.errors import UserError


def folder(path: Path, size: int = 4, **options: Any) -> DatasetConfig:
    options = {"validation_fraction": 0, "test_fraction": 0.25} | options
    return DatasetConfig(name=Source.image_folder, path=str(path), image_size=size, **options)


def paint(file: Path, level: int, size: tuple[int, int] = (4, 4)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(file)


def levels(split: Any) -> list[int]:
    """The grey level of each image, by which `paint` distinguishes them."""
    return [int(image[0, 0, 0]) for image in split.images]


def classes(root: Path, names: str = "ab", images: int = 8) -> Path:
    for number, name in enumerate(names):
        for image in range(images):
            paint(root / name / f"{image}.png", 100 * number + image)
    return root


def test_class_folders_are_split_by_fraction(tmp_path: Path) -> None:
    dataset = load_dataset(folder(classes(tmp_path), validation_fraction=1 / 6))
    assert dataset.class_names == ("a", "b")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [10, 2, 4]
    assert dataset.image_shape == (4, 4, 3)
    assert dataset.skipped == 0
    for split in (dataset.train, dataset.validation, dataset.test):
        assert [level // 100 for level in levels(split)] == split.labels.tolist()
    together = levels(dataset.train) + levels(dataset.validation) + levels(dataset.test)
    assert sorted(together) == [*range(8), *range(100, 108)]
    assert load_dataset(folder(tmp_path, validation_fraction=1 / 6)).digest == dataset.digest


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Validation"])
def test_parts_in_folders(tmp_path: Path, validation: str) -> None:
    classes(tmp_path / "train", "abc")
    classes(tmp_path / validation, "abc", 2)
    classes(tmp_path / "test", "ac", 3)
    dataset = load_dataset(folder(tmp_path, validation_fraction=0.5, train_limit=12))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [12, 6, 6]
    assert np.bincount(dataset.train.labels).tolist() == [4, 4, 4]
    assert dataset.test.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert dataset.class_names == ("a", "b", "c")


def test_a_training_folder_alone_is_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes(tmp_path / "train")
    (tmp_path / "raw").mkdir()
    dataset = load_dataset(folder(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (12, 4)
    assert "folder raw beside train is not read" in caplog.text


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("car", "train"):
        for image in range(4):
            paint(tmp_path / name / f"{image}.png", image)
    assert load_dataset(folder(tmp_path)).class_names == ("car", "train")


def test_only_chosen_images_are_decoded(tmp_path: Path) -> None:
    classes(tmp_path)
    few = load_dataset(folder(tmp_path, train_limit=2))
    kept = set(levels(few.train) + levels(few.test))
    for file in tmp_path.glob("*/*.png"):
        if 100 * "ab".index(file.parent.name) + int(file.stem) not in kept:
            file.write_bytes(b"damage that nothing reads")
    assert load_dataset(folder(tmp_path, train_limit=2)).digest == few.digest


def test_other_files_are_skipped(tmp_path: Path) -> None:
    classes(tmp_path)
    for name in (".DS_Store", "a/.DS_Store", "a/._0.png", "a/Thumbs.db", "a/notes.txt", "README.md"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    paint(tmp_path / "a" / "deeper" / "UPPER.PNG", 50)
    dataset = load_dataset(folder(tmp_path))
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
    dataset = load_dataset(folder(root))
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
    dataset = load_dataset(folder(tmp_path, on_error=OnError.skip))
    assert dataset.class_names == ("é", "日本", "\ufffd\ufffd")
    assert dataset.test.labels.tolist() == [0, 0, 0, 0]
    assert "\ufffd\ufffd/1.png" in caplog.text
    caplog.text.encode()
    # A run that is evaluated finds them by the names that it has recorded.
    names = ["日本/1.png", "\ufffd\ufffd/0.png"]
    again = read_files(tmp_path / "train", names, np.array([1, 2], np.int32), folder(tmp_path, on_error=OnError.skip))
    assert [record.path for record in again.files or ()] == names


def test_an_unreadable_image_stops_and_is_named(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "test")
    whole = (tmp_path / "train" / "a" / "3.png").read_bytes()
    for name, content in (("a/3.png", whole[: len(whole) // 2]), ("a/5.png", b""), ("b/1.png", b"<html>")):
        (tmp_path / "train" / name).write_bytes(content)
    with pytest.raises(UserError, match=r"a/3\.png: truncated, .*dataset\.on_error=skip") as raised:
        load_dataset(folder(tmp_path))
    assert "\n" not in str(raised.value)


def test_unreadable_images_are_skipped_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    classes(tmp_path)
    (tmp_path / "a" / "3.png").write_bytes(b"<html>")
    (tmp_path / "b" / "1.png").unlink()
    (tmp_path / "b" / "1.png").symlink_to("nowhere")
    dataset = load_dataset(folder(tmp_path, on_error=OnError.skip))
    assert dataset.skipped == 2
    assert sorted(levels(dataset.train) + levels(dataset.test)) == sorted(
        [level for level in [*range(8), *range(100, 108)] if level not in (3, 101)]
    )
    assert "a/3.png: truncated" in caplog.text
    assert "UnidentifiedImageError: cannot identify image file)" in caplog.text  # without the address of its bytes
    assert "b/1.png: cannot be read: No such file" in caplog.text
    for split in (dataset.train, dataset.test):
        assert [level // 100 for level in levels(split)] == split.labels.tolist()


def test_nothing_readable_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    for file in classes(tmp_path).glob("*/*"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="expected images, received 12 files, none of which can be read"):
        load_dataset(folder(tmp_path, on_error=OnError.skip))


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
    with pytest.raises(UserError, match=message) as raised:
        load_dataset(folder(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_memory_is_asked_for_before_it_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.image_size=1000000: 12 images need 36000\.0 GB"):
        load_dataset(folder(classes(tmp_path), size=1_000_000, memory_limit=1e6))
    with pytest.raises(UserError, match=r"dataset\.image_size=1000000: 1 images need 3000\.0 GB"):
        load_dataset(folder(tmp_path, size=1_000_000))


def test_an_early_error_does_not_wait_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tnt_exp.data import image_files

    decoded = []

    def slowly(encoded: bytes, file: Path, size: int, channels: int) -> np.ndarray:
        decoded.append(file)
        if file.name == "0.png" and file.parent.name == "a":
            raise UserError(f"{file}: damaged")
        time.sleep(0.001)
        return np.zeros((size, size, channels), np.uint8)

    monkeypatch.setattr(image_files, "decode_pixels", slowly)
    for name in "ab":
        (tmp_path / name).mkdir()
        for image in range(1000):
            (tmp_path / name / f"{image}.png").touch()
    with pytest.raises(UserError, match="damaged"):
        load_dataset(folder(tmp_path, test_fraction=0.0006))
    assert len(decoded) < 1000
