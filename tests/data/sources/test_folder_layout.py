"""Folders as people and their machines leave them: spellings of splits, system files, files of other kinds."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.data.sources.folder_layout import describe_left_out, folder_layout, list_images
from tnt_exp.errors import UserError

TRAIN = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev")
TEST = ("test", "testing")
SYSTEM = (
    "@eaDir",
    "__MACOSX",
    ".DS_Store",
    ".ipynb_checkpoints",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
)


def make(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def any_case(names: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.sampled_from(names).flatmap(lambda name: st.sampled_from([name, name.upper(), name.title()]))


@settings(max_examples=40, deadline=None)
@given(any_case(TRAIN), st.none() | any_case(VALIDATION), st.none() | any_case(TEST), st.sets(st.sampled_from(SYSTEM)))
def test_splits_in_any_spelling(
    tmp_path_factory: pytest.TempPathFactory, train: str, validation: str | None, test: str | None, system: set[str]
) -> None:
    root = tmp_path_factory.mktemp("photos")
    parts = [part for part in (train, validation, test) if part]
    make(root, *(f"{part}/{name}/1.png" for part in parts for name in ("cat", "dog")))
    make(root, *(f"{name}/cat/1.png" for name in system), *(f"{train}/{name}/x/1.png" for name in system))
    found = folder_layout(root)
    assert found.class_names == ("cat", "dog")
    assert (found.validation is None, found.test is None) == (validation is None, test is None)
    assert found.unread == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/1.png", "test/2.png"], r"one folder per class in .*train/cat/1\.jpg"),
        (["Test/cat/1.png", "Test/dog/1.png", "val/cat/1.png"], r"expected train/ with one folder per class beside"),
        (["train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "dev/cat/1.png"], "one validation folder"),
        (["cat/1.png"], "two or more class folders, received cat"),
        (["train/cat/1.png", "train/dog/1.png", "test/fox/1.png"], r"received fox; name them as in train/"),
    ],
)
def test_what_is_no_layout_is_one_line(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        folder_layout(make(tmp_path, *files))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make(tmp_path, "train/1.png", "ship/1.png")
    assert folder_layout(tmp_path).class_names == ("ship", "train")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "b.JFIF", "c.jpe", "._a.png", "Thumbs.db", "desktop.ini", "@eaDir/a.png/THUMB.jpg")
    make(tmp_path, "d.txt", "e.txt", "deep/f.mp4", "g.xyz", "LICENSE")
    found = list_images(tmp_path)
    assert [file.name for file in found.files] == ["a.png", "b.JFIF", "c.jpe"]
    assert found.left_out == {".txt": 2, ".mp4": 1, ".xyz": 1, "without suffix": 1}
    assert describe_left_out(found.left_out) == "1 .mp4, 2 .txt, 1 .xyz, 1 without suffix"


def test_links_in_circles_end(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "dog", target_is_directory=True)
    listed = [tmp_path / "cat/1.png", tmp_path / "cat/more/1.png"]  # no cat/loop/dog/1.png
    assert list_images(tmp_path / "cat").files == listed
