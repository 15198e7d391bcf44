"""Cross-validation: `dataset.folds` and `dataset.fold`."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tnt_exp.cli import main
from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import dataset_info, load_dataset, load_test_split
from tnt_exp.errors import UserError


def test_five_folds_of_the_digits_test_each_image_once() -> None:
    tested: Counter[bytes] = Counter()
    digests = set()
    for fold in range(5):
        config = DatasetConfig(folds=5, fold=fold)
        dataset = load_dataset(config)
        assert dataset.validation is not None
        tested.update(image.tobytes() for image in dataset.test.images[:])
        seen = Counter(image.tobytes() for part in (dataset.train, dataset.validation) for image in part.images[:])
        assert len(dataset.train) == dataset_info(config).train
        assert len(dataset.train) + len(dataset.validation) + len(dataset.test) == 1797
        assert not seen & Counter(image.tobytes() for image in dataset.test.images[:])
        assert np.ptp(np.bincount(dataset.test.labels)) <= 3  # classes have 174 to 183 images
        digests.add(dataset.digest)
    whole = load_dataset(DatasetConfig(validation_fraction=0))
    every = Counter(image.tobytes() for part in (whole.train, whole.test) for image in part.images[:])
    assert tested == every
    assert len(digests) == 5


def arrays(folder: Path, **others: np.ndarray) -> DatasetConfig:
    images = np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1)
    np.savez(folder / "some.npz", x_train=images, y_train=np.arange(24) % 2, **others)
    return DatasetConfig(name=Source.npz, path=str(folder / "some.npz"), folds=4, validation_fraction=0)


def test_images_of_training_are_in_no_other_split() -> None:
    trained = DatasetConfig(folds=5, fold=0)
    assert load_test_split(DatasetConfig(folds=5, fold=1), trained)[:2] == (None, 360)
    whole, seen = load_dataset(DatasetConfig(split_seed=1)).test, load_dataset(trained)
    split, left_out, class_names = load_test_split(DatasetConfig(split_seed=1), trained)
    assert split is not None
    assert (len(split) + left_out, len(class_names)) == (len(whole), 10)
    own, found = ({image.tobytes() for image in part.images} for part in (seen.test, split))
    assert 50 < len(found) < 100  # a fifth of a fifth of 1,797
    assert found <= own


def test_a_test_part_of_the_data_is_left_alone_and_that_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    official = np.full((3, 1, 1, 1), 200, np.uint8)
    config = arrays(tmp_path, x_test=official, y_test=np.array([0, 1, 1]))
    dataset = load_dataset(config)
    assert (len(dataset.train), len(dataset.test)) == (18, 6)
    assert dataset.test.images[:].max() < 24
    assert "dataset.folds: the test part of npz is not used" in caplog.text


def test_without_folds_nothing_changes(tmp_path: Path) -> None:
    plain = load_dataset(DatasetConfig())
    assert plain.digest == load_dataset(DatasetConfig(folds=None, fold=0)).digest


def test_more_folds_than_images_are_refused(tmp_path: Path) -> None:
    config = arrays(tmp_path)
    config.folds = 25
    with pytest.raises(UserError, match=r"dataset.folds: expected 2 to 24, the number of images, received 25"):
        load_dataset(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.folds=5", "dataset.fold=5"], "dataset.fold: expected 0 to 4, received 5."),
        (["dataset.fold=1"], "dataset.fold: expected 0 without dataset.folds, received 1."),
        (["dataset.folds=1"], "dataset.folds: expected 2 to 1797, the number of images, received 1"),
        (["dataset.folds=2000"], "dataset.folds: expected 2 to 1797, the number of images, received 2000"),
    ],
)
def test_bad_folds_are_one_line(overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *overrides]) == 2
    assert capsys.readouterr().err == f"tnt-exp: {message}\n"
