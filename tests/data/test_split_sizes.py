import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import DatasetInfo, dataset_info, load_dataset
from tnt_exp.data.splits import RandomStream, stratified_split, train_split_sizes
from tnt_exp.errors import UserError


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.001, 0.9), st.floats(0.001, 0.9), st.none() | st.integers(1, 2000), st.booleans(), st.integers(0, 2**32)
)
def test_digits_are_what_the_facts_say(
    test_fraction: float, validation_fraction: float, train_limit: int | None, validate: bool, seed: int
) -> None:
    config = DatasetConfig(
        test_fraction=test_fraction,
        validation_fraction=validation_fraction if validate else 0,
        train_limit=train_limit,
        split_seed=seed,
    )
    try:
        expected = dataset_info(config)
    except UserError:
        with pytest.raises(UserError):
            load_dataset(config)
        return
    dataset = load_dataset(config)
    assert expected == DatasetInfo(*dataset.image_shape, dataset.num_classes, len(dataset.train))
    assert (dataset.validation is None) == (not validate)


@pytest.mark.parametrize(
    ("options", "train", "validation"),
    [
        ({}, 45_000, 5_000),
        ({"validation_fraction": 0.2}, 40_000, 10_000),
        ({"validation_fraction": 0}, 50_000, 0),
        ({"validation_fraction": 0.2, "train_limit": 10_000}, 8_000, 2_000),
        ({"validation_fraction": 1 / 3}, 33_333, 16_667),
        ({"train_limit": 1_000_000}, 45_000, 5_000),
    ],
)
def test_cifar100_is_divided_as_the_facts_say(options: dict[str, float], train: int, validation: int) -> None:
    config = DatasetConfig(name=Source.cifar100, **options)
    assert dataset_info(config) == DatasetInfo(32, 32, 3, 100, train)
    assert train_split_sizes(50_000, config) == (train, validation)
    labels = np.arange(50_000) % 100
    chosen, rest = stratified_split(labels[: train + validation], validation, RandomStream.validation, 0)
    assert (len(rest), len(chosen)) == (train, validation)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DatasetConfig(name=Source.cifar10), DatasetInfo(32, 32, 3, 10, 45_000)),
        (DatasetConfig(name=Source.mnist), DatasetInfo(28, 28, 1, 10, 54_000)),
        (DatasetConfig(name=Source.fashion_mnist, validation_fraction=0), DatasetInfo(28, 28, 1, 10, 60_000)),
        (DatasetConfig(name=Source.cifar10, path="x.tar"), DatasetInfo(32, 32, 3, 10, None)),
        (DatasetConfig(name=Source.npz, path="x.npz"), DatasetInfo()),
        (DatasetConfig(name=Source.image_folder, image_size=48, channels=1), DatasetInfo(48, 48, 1)),
    ],
)
def test_facts_of_the_other_sources(config: DatasetConfig, expected: DatasetInfo) -> None:
    assert dataset_info(config) == expected


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"validation_fraction": 0.00001}, "dataset.validation_fraction"),
        ({"validation_fraction": 0.5, "train_limit": 1}, "dataset.validation_fraction"),
        ({"validation_fraction": float("nan")}, "dataset.validation_fraction"),
        ({"validation_fraction": -1}, "dataset.validation_fraction"),
        ({"test_fraction": 0.9999}, "dataset.test_fraction"),
        ({"train_limit": -5}, "dataset.train_limit"),
    ],
)
def test_an_empty_part_is_found_before_anything_is_read(options: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=key):
        dataset_info(DatasetConfig(**options))
