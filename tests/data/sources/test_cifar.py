import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import load_dataset
from tnt_exp.errors import UserError

COMPRESSIONS = ["", "gz", "bz2", "xz"]


def cifar(path: Path, source: Source = Source.cifar100, validation_fraction: float = 0) -> DatasetConfig:
    return DatasetConfig(name=source, path=str(path), validation_fraction=validation_fraction)


def assert_cifar100(config: DatasetConfig, official: Any) -> None:
    dataset = load_dataset(config)
    np.testing.assert_array_equal(dataset.train.images, official.pixels(200, 1))
    np.testing.assert_array_equal(dataset.test.images, official.pixels(100, 2))
    np.testing.assert_array_equal(dataset.train.labels, np.arange(200) % 100)
    np.testing.assert_array_equal(dataset.test.labels, np.arange(100))
    assert dataset.class_names == tuple(f"fine{i}" for i in range(100))


@pytest.mark.parametrize("mode", COMPRESSIONS)
def test_the_binary_archive(official: Any, tmp_path: Path, mode: str) -> None:
    (tmp_path / "archive").write_bytes(official.tar(official.binary_cifar100(), "cifar-100-binary", mode=mode))
    assert_cifar100(cifar(tmp_path / "archive"), official)


@pytest.mark.parametrize("mode", COMPRESSIONS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_the_python_archive(official: Any, tmp_path: Path, mode: str, protocol: int) -> None:
    files = official.python_cifar100(protocol=protocol)
    (tmp_path / "archive").write_bytes(official.tar(files, "cifar-100-python", mode=mode))
    assert_cifar100(cifar(tmp_path / "archive"), official)


@pytest.mark.parametrize("layout", ["binary_cifar100", "python_cifar100"])
def test_the_folder_and_the_folder_above_it(official: Any, tmp_path: Path, layout: str) -> None:
    folder = official.write(tmp_path / "cifar-100", getattr(official, layout)())
    assert_cifar100(cifar(folder), official)
    assert_cifar100(cifar(tmp_path), official)


@pytest.mark.parametrize(("layout", "folder"), [("binary_cifar10", "batches-bin"), ("python_cifar10", "batches-py")])
def test_cifar10_joins_its_five_files_in_order(official: Any, tmp_path: Path, layout: str, folder: str) -> None:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(official.tar(getattr(official, layout)(), f"cifar-10-{folder}", mode="gz"))
    dataset = load_dataset(cifar(path, Source.cifar10))
    expected = np.concatenate([official.pixels(20, seed) for seed in range(5)])
    np.testing.assert_array_equal(dataset.train.images, expected)
    np.testing.assert_array_equal(dataset.train.labels, np.arange(100) % 10)
    np.testing.assert_array_equal(dataset.test.images, official.pixels(20, 5))
    assert dataset.class_names == tuple(f"class{i}" for i in range(10))


def test_the_files_need_no_class_names(official: Any, tmp_path: Path) -> None:
    files = official.binary_cifar100()
    del files["fine_label_names.txt"]
    assert load_dataset(cifar(official.write(tmp_path, files))).class_names[99] == "worm"


def test_both_versions_in_one_folder_give_the_same(official: Any, tmp_path: Path) -> None:
    official.write(tmp_path / "binary", official.binary_cifar100())
    official.write(tmp_path / "python", official.python_cifar100())
    assert_cifar100(cifar(tmp_path), official)
    assert load_dataset(cifar(tmp_path / "binary")).digest == load_dataset(cifar(tmp_path / "python")).digest


def test_fewer_images_than_the_official_ones_are_reported(
    official: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_dataset(cifar(official.write(tmp_path, official.binary_cifar100())))
    assert "200 training and 100 test images; the official cifar100 has 50000 and 10000" in caplog.text


def test_splits_of_cifar_are_stratified(official: Any, tmp_path: Path) -> None:
    path = official.write(tmp_path, official.binary_cifar100(train=1000))
    config = DatasetConfig(name=Source.cifar100, path=str(path), train_limit=500, validation_fraction=0.2)
    dataset = load_dataset(config)
    assert np.bincount(dataset.train.labels).tolist() == [4] * 100
    assert np.bincount(dataset.validation.labels).tolist() == [1] * 100


def replaced(files: dict[str, bytes], **changes: bytes | None) -> dict[str, bytes]:
    changed = files | {name.replace("_bin", ".bin"): content for name, content in changes.items()}
    return {name: content for name, content in changed.items() if content is not None}


DAMAGES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "missing": (lambda files: replaced(files, test_bin=None), r"received no test\.bin"),
    "truncated": (lambda files: replaced(files, train_bin=files["train.bin"][:-1]), r"train\.bin: expected records of"),
    "empty": (lambda files: replaced(files, train_bin=b""), r"train\.bin: expected at least one image"),
    "mislabelled": (
        lambda files: replaced(files, test_bin=files["test.bin"][:3075] + b"\x64" + files["test.bin"][3076:]),
        r"test\.bin: expected labels from 0 to 99, received 100 at image 1 \(1 labels outside\)",
    ),
    "superclass": (
        lambda files: replaced(files, test_bin=b"\x20" + files["test.bin"][1:]),
        "superclasses from 0 to 19",
    ),
    "names": (lambda files: files | {"fine_label_names.txt": b"a\nb\n"}, "expected 100 class names, received 2"),
    "no text": (lambda files: files | {"fine_label_names.txt": b"\xff\xfe"}, r"fine_label_names\.txt: truncated"),
}


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_with_its_file(official: Any, tmp_path: Path, damage: str, archived: bool) -> None:
    change, message = DAMAGES[damage]
    files = change(official.binary_cifar100())
    path = official.write(tmp_path / "data", files)
    if archived:
        path = tmp_path / "data.tar.xz"
        path.write_bytes(official.tar(files, "cifar-100-binary", mode="xz"))
    with pytest.raises(UserError, match=message) as raised:
        load_dataset(cifar(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_other_cifar_is_named(official: Any, tmp_path: Path) -> None:
    path = official.write(tmp_path, official.binary_cifar10())
    with pytest.raises(UserError, match=r"expected the files of cifar100 \(train\.bin, test\.bin or train, test\)"):
        load_dataset(cifar(path))


def test_links_and_other_members_are_skipped(official: Any, tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind, target in (
            ("x/train.bin", tarfile.SYMTYPE, "/etc/passwd"),
            ("x/test.bin", tarfile.LNKTYPE, "../../secret"),
            ("x/._train.bin", tarfile.REGTYPE, ""),
            ("../../train.bin.old", tarfile.REGTYPE, ""),
            ("/dev/null", tarfile.CHRTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name, content in official.binary_cifar100().items():
            member = tarfile.TarInfo(f"cifar-100-binary/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert_cifar100(cifar(path), official)
    assert list(tmp_path.iterdir()) == [path]


def test_two_files_of_one_name_are_refused(official: Any, tmp_path: Path) -> None:
    files = official.binary_cifar100()
    archive = tmp_path / "archive.tar"
    archive.write_bytes(official.tar(files, "a", "b"))
    with pytest.raises(UserError, match=r"expected one train\.bin in it, received two"):
        load_dataset(cifar(archive))
    for name in ("a", "b"):
        official.write(tmp_path / "folders" / name, files)
    with pytest.raises(UserError, match=r"expected one test\.bin, received .*a/test\.bin and .*b/test\.bin"):
        load_dataset(cifar(tmp_path / "folders"))


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_checksum_behind_the_last_member_counts(official: Any, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "archive"
    path.write_bytes(official.tar(official.binary_cifar100(20, 10), "x", mode=mode)[:-4])
    with pytest.raises(UserError, match="truncated"):
        load_dataset(cifar(path))


damage = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8)


@pytest.mark.parametrize("layout", ["binary_cifar100", "python_cifar100"])
@pytest.mark.parametrize("mode", COMPRESSIONS)
@settings(max_examples=80, deadline=None)
@given(edits=damage, near=st.booleans(), keep=st.just(1.0) | st.floats(0, 1))
def test_any_damage_loads_to_a_valid_data_set_or_is_an_input_error(
    official: Any,
    loads_or_is_refused: Callable[[DatasetConfig], None],
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
    mode: str,
    edits: list[tuple[float, int]],
    near: bool,
    keep: float,
) -> None:
    whole = official.tar(getattr(official, layout)(8, 4), "cifar-100", mode=mode)
    content = bytearray(whole)
    for where, value in edits:
        # Damage near the start of the archive hits heads and programs, not only pixels.
        content[int(where * (700 if near else len(content)))] = value
    path = tmp_path_factory.mktemp("damaged", numbered=True) / "archive"
    path.write_bytes(content[: int(keep * len(content))])
    loads_or_is_refused(cifar(path))
