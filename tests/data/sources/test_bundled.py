import numpy as np
from sklearn.datasets import load_digits

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data import load_dataset


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    dataset = load_dataset(DatasetConfig())
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.class_names == tuple("0123456789")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (1294, 144, 359)
    bunch = load_digits()
    of_image = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    seen = set()
    for split in (dataset.train, dataset.validation, dataset.test):
        for image, label in zip(split.images, split.labels, strict=True):
            assert of_image[image.tobytes()] == label
            seen.add(image.tobytes())
    assert seen == of_image.keys()


def test_splits_are_the_same_for_ever() -> None:
    # Written down once: a change here makes every recorded run another experiment.
    assert load_dataset(DatasetConfig()).digest == "c93e14076aef6a47"


def test_only_the_split_seed_moves_the_splits() -> None:
    assert load_dataset(DatasetConfig()).digest == load_dataset(DatasetConfig()).digest
    assert load_dataset(DatasetConfig(split_seed=1)).digest != load_dataset(DatasetConfig()).digest


def test_the_test_part_does_not_depend_on_limit_and_validation() -> None:
    first = load_dataset(DatasetConfig())
    second = load_dataset(DatasetConfig(train_limit=100, validation_fraction=0.3))
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert (len(second.train), len(second.validation)) == (70, 30)
    assert np.bincount(second.train.labels).tolist() == [7] * 10
