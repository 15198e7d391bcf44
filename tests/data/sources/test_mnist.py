import gzip
import tracemalloc
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


def mnist(path: Path, source: Source = Source.mnist) -> DatasetConfig:
    return DatasetConfig(name=source, path=str(path), validation_fraction=0)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("subfolder", ["", "raw"])
def test_the_official_files(official: Any, tmp_path: Path, compress: bool, subfolder: str) -> None:
    official.write(tmp_path / subfolder, official.mnist(), compress)
    dataset = load_dataset(mnist(tmp_path))
    expected = np.random.default_rng(1).integers(0, 256, (40, 28, 28), np.uint8)
    np.testing.assert_array_equal(dataset.train.images, expected[..., None])
    np.testing.assert_array_equal(dataset.train.labels, np.arange(40) % 10)
    assert (len(dataset.test), dataset.image_shape) == (20, (28, 28, 1))
    assert dataset.class_names == tuple("0123456789")


def test_both_forms_side_by_side(official: Any, tmp_path: Path) -> None:
    official.write(tmp_path, official.mnist())
    alone = load_dataset(mnist(tmp_path)).digest
    official.write(tmp_path, official.mnist(), compress=True)
    assert load_dataset(mnist(tmp_path)).digest == alone


def test_an_mnist_npz(official: Any, tmp_path: Path) -> None:
    official.write(tmp_path / "idx", official.mnist())
    dataset = load_dataset(mnist(tmp_path / "idx", Source.fashion_mnist))
    np.savez(
        tmp_path / "mnist.npz",
        x_train=dataset.train.images[..., 0],
        y_train=dataset.train.labels.astype(np.uint8),
        x_test=dataset.test.images[..., 0],
        y_test=dataset.test.labels.astype(np.uint8),
    )
    again = load_dataset(mnist(tmp_path / "mnist.npz", Source.fashion_mnist))
    assert again.digest == dataset.digest
    assert again.class_names[9] == "Ankle boot"


def test_an_npz_without_a_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros((9, 28, 28), np.uint8), y_train=np.arange(9))
    with pytest.raises(UserError, match=r"expected arrays x_train, y_train, x_test, y_test, received x_train, y_train"):
        load_dataset(mnist(tmp_path / "mnist.npz"))


LABELS, IMAGES = "train-labels-idx1-ubyte", "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("t10k-labels-idx1-ubyte", lambda content: None, "received no t10k-labels-idx1-ubyte"),
        (IMAGES, lambda content: content[:-1], "expected the 40 x 28 x 28 bytes that its head names, received 31359"),
        (IMAGES, lambda content: content[:7], "expected an idx file beginning with 00 00 08 03, received 00 00 08 03"),
        (IMAGES, lambda content: b"", "received nothing"),
        (IMAGES, lambda content: b"\0\0\x08\x01" + content[4:], "received 00 00 08 01"),
        (LABELS, lambda content: content[:8] + b"\x0a" + content[9:], "from 0 to 9, received 10 at image 0"),
        (LABELS, lambda content: b"\0\0\x08\x01\0\0\0\x02\0\0", "received 40 images and 2 labels"),
        (IMAGES, lambda content: b"\0\0\x08\x03\0\0\x00\x28\0\0\0\x0e\0\0\0\x38" + content[16:], "28x28 grey pixels"),
        (IMAGES, lambda content: b"\0\0\x08\x03\0\0\0\0\0\0\0\x1c\0\0\0\x1c", "expected at least one image"),
    ],
)
def test_damage_is_named_with_its_file(
    official: Any, tmp_path: Path, name: str, change: Callable[[bytes], bytes | None], message: str
) -> None:
    files = official.mnist()
    changed = change(files.pop(name))
    official.write(tmp_path, files | ({} if changed is None else {name: changed}))
    with pytest.raises(UserError, match=message) as raised:
        load_dataset(mnist(tmp_path))
    assert str(tmp_path) in str(raised.value)


def test_a_small_archive_that_inflates_to_gigabytes_is_read_as_far_as_its_head_says(
    official: Any, tmp_path: Path
) -> None:
    """The head names 40 images; 512 MiB of zeros follow, half a megabyte compressed."""
    official.write(tmp_path, official.mnist(), compress=True)
    file = tmp_path / f"{IMAGES}.gz"
    head, zeros = official.mnist()[IMAGES][:16], bytes(2**20)
    with gzip.open(file, "wb", compresslevel=1) as stream:
        stream.write(head)
        for _ in range(512):
            stream.write(zeros)
    tracemalloc.start()
    with pytest.raises(UserError, match="expected the 40 x 28 x 28 bytes that its head names, received more"):
        load_dataset(mnist(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_head_that_claims_gigabytes_is_refused(official: Any, tmp_path: Path) -> None:
    official.write(tmp_path, official.mnist() | {IMAGES: b"\0\0\x08\x03" + b"\xff" * 12}, compress=True)
    with pytest.raises(UserError, match="4294967295 x 4294967295 x 4294967295 bytes that its head names, received 0"):
        load_dataset(mnist(tmp_path))


@settings(max_examples=200, deadline=None)
@given(
    which=st.integers(0, 3),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    keep=st.just(1.0) | st.floats(0, 1),
    compress=st.booleans(),
)
def test_any_damage_loads_to_a_valid_data_set_or_is_an_input_error(
    official: Any,
    loads_or_is_refused: Callable[[DatasetConfig], None],
    tmp_path_factory: pytest.TempPathFactory,
    which: int,
    edits: list[tuple[int, int]],
    keep: float,
    compress: bool,
) -> None:
    path = official.write(tmp_path_factory.mktemp("damaged"), official.mnist(4, 2), compress)
    file = sorted(path.iterdir())[which]
    content = bytearray(file.read_bytes())
    for where, value in edits:
        content[where % min(40, len(content))] = value
    file.write_bytes(content[: int(keep * len(content))])
    loads_or_is_refused(mnist(path))
