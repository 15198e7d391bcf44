import io
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

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 6, 7, 3), np.uint8)
LABELS = np.arange(30) % 3


def npz(path: Path, **options: Any) -> DatasetConfig:
    return DatasetConfig(name=Source.npz, path=str(path), **options)


def test_arrays_with_a_test_part_and_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez_compressed(
        path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:4], y_test=LABELS[:4], class_names=["a", "ß", "c"]
    )
    dataset = load_dataset(npz(path, validation_fraction=0))
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    np.testing.assert_array_equal(dataset.test.images, IMAGES[:4])
    assert dataset.class_names == ("a", "ß", "c")
    assert dataset.image_shape == (6, 7, 3)


@pytest.mark.parametrize("keys", [("x_train", "y_train"), ("images", "labels")])
def test_arrays_without_a_test_part_are_split(tmp_path: Path, keys: tuple[str, str]) -> None:
    np.savez(tmp_path / "mine.npz", **{keys[0]: IMAGES[..., 0], keys[1]: LABELS[:, None].astype(np.uint8)})
    dataset = load_dataset(npz(tmp_path / "mine.npz", test_fraction=0.3, validation_fraction=1 / 7))
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 3, 9)
    assert np.bincount(dataset.test.labels).tolist() == [3, 3, 3]
    assert dataset.image_shape == (6, 7, 1)
    assert dataset.class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None}, "expected x_train beside y_train, received y_train"),
        ({"y_train": None}, "expected y_train beside x_train"),
        ({"x_train": None, "y_train": None, "z": LABELS}, "x_train and y_train, or images and labels, received z"),
        ({"x_train": IMAGES / 255}, r"expected uint8 .* received float64 \(30, 6, 7, 3\)"),
        ({"x_train": IMAGES[..., :2]}, r"expected uint8 \(images, height, width\[, 1 or 3\]\), received uint8"),
        ({"x_train": IMAGES[0, 0]}, "expected uint8"),
        ({"x_train": IMAGES[:, :0]}, "expected uint8"),
        ({"x_train": IMAGES[:0], "y_train": LABELS[:0], "class_names": ["a", "b"]}, "expected at least one image"),
        ({"y_train": LABELS.astype(float)}, "expected whole numbers"),
        ({"y_train": np.eye(3)[LABELS].astype(int)}, r"expected whole numbers \(images,\), received int64 \(30, 3\)"),
        ({"y_train": LABELS[:-1]}, "received 30 images and 29 labels"),
        ({"y_train": LABELS + 1}, r"expected training labels 0, 1, \.\.\. with none left out, received 1, 2, 3"),
        ({"y_train": LABELS * 0}, "with none left out, received 0;"),
        ({"y_train": LABELS - 1, "class_names": ["a", "b"]}, "expected labels from 0 to 1, received -1 at image 0"),
        ({"class_names": ["a", "b"]}, "expected labels from 0 to 1, received 2 at image 2"),
        ({"class_names": [1, 2, 3]}, "class_names: expected two or more texts, received int64"),
        ({"class_names": np.array(["a", None, "c"])}, "Object arrays cannot be loaded"),
        ({"x_test": IMAGES[:, :5], "y_test": LABELS}, r"x_test: expected images of shape \(6, 7, 3\)"),
        ({"x_test": IMAGES, "y_test": LABELS + 1}, "test: expected labels from 0 to 2, received 3"),
        ({"x_test": IMAGES}, "expected y_test beside x_test"),
    ],
)
def test_arrays_of_another_form(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arrays = {"x_train": IMAGES, "y_train": LABELS} | changes
    np.savez(tmp_path / "mine.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(UserError, match=message) as raised:
        load_dataset(npz(tmp_path / "mine.npz"))
    assert str(tmp_path / "mine.npz") in str(raised.value)
    assert "\n" not in str(raised.value)


@settings(max_examples=200, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
    keep=st.just(1.0) | st.floats(0, 1),
    compress=st.booleans(),
    ends=st.booleans(),
)
def test_any_damage_loads_to_a_valid_data_set_or_is_an_input_error(
    loads_or_is_refused: Callable[[DatasetConfig], None],
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[int, int]],
    keep: float,
    compress: bool,
    ends: bool,
) -> None:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, images=IMAGES, labels=LABELS)
    content = bytearray(buffer.getvalue())
    for where, value in edits:
        content[-(where % 300) if ends else where % len(content)] = value
    path = tmp_path_factory.mktemp("damaged") / "mine.npz"
    path.write_bytes(content[: int(keep * len(content))])
    loads_or_is_refused(npz(path))
