import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnt_exp.data.splits import RandomStream, class_shares, fold_split, random_order, stratified_split

labels_and_size = st.lists(st.integers(0, 7), min_size=1, max_size=200).flatmap(
    lambda labels: st.tuples(st.just(np.array(labels, np.int32)), st.integers(0, len(labels)))
)


@given(labels_and_size, st.integers(0, 2**40), st.sampled_from(RandomStream))
def test_a_split_is_a_partition_of_exact_size_in_proportion(
    given_labels: tuple[np.ndarray, int], seed: int, purpose: RandomStream
) -> None:
    labels, size = given_labels
    chosen, rest = stratified_split(labels, size, purpose, seed)
    assert len(chosen) == size
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    assert (np.diff(chosen) > 0).all()
    assert (np.diff(rest) > 0).all()
    quota = np.bincount(labels) * size / len(labels)
    assert (np.abs(np.bincount(labels[chosen], minlength=len(quota)) - quota) < 1).all()
    again, _ = stratified_split(labels, size, purpose, seed)
    np.testing.assert_array_equal(chosen, again)


def test_the_choice_depends_on_the_seed_and_the_purpose() -> None:
    labels = np.arange(1000) % 10
    choices = [
        stratified_split(labels, 500, purpose, seed)[0].tobytes()
        for purpose in (RandomStream.test, RandomStream.limit, RandomStream.validation)
        for seed in (0, 1)
    ]
    assert len(set(choices)) == 6


def test_shares_of_the_largest_remainders() -> None:
    # Quotas 1.5, 0.9, 0.6: one whole and remainders .5, .9, .6.
    np.testing.assert_array_equal(class_shares(np.array([5, 3, 2]), 3, np.arange(3)), [1, 1, 1])
    np.testing.assert_array_equal(class_shares(np.array([4, 4, 4]), 4, np.array([2, 0, 1])), [1, 2, 1])


def test_where_classes_tie_the_seed_decides_which_get_one_more() -> None:
    labels = np.arange(1000) % 100
    some = {tuple(np.unique(labels[stratified_split(labels, 50, RandomStream.limit, seed)[0]])) for seed in range(3)}
    assert len(some) == 3


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_an_order_is_a_permutation(size: int) -> None:
    assert sorted(random_order(size, RandomStream.epoch, 3, 4)) == list(range(size))


def test_an_order_is_the_same_for_ever() -> None:
    # Written down once: another NumPy or another machine must give these, or no run can be repeated.
    assert random_order(10, RandomStream.epoch, 0, 0).tolist() == [0, 8, 9, 3, 7, 5, 1, 2, 6, 4]
    assert random_order(10, RandomStream.validation, 7).tolist() == [9, 3, 0, 2, 5, 4, 7, 8, 6, 1]


@given(st.lists(st.integers(0, 7), min_size=5, max_size=200), st.integers(2, 5), st.integers(0, 2**40))
def test_folds_hold_each_image_once_and_classes_in_proportion(given: list[int], folds: int, seed: int) -> None:
    labels = np.array(given, np.int32)
    parts = [fold_split(labels, folds, fold, seed) for fold in range(folds)]
    assert sorted(np.concatenate([chosen for chosen, _ in parts])) == list(range(len(labels)))
    for chosen, rest in parts:
        assert sorted([*chosen, *rest]) == list(range(len(labels)))
    counts = np.array([np.bincount(labels[chosen], minlength=8) for chosen, _ in parts])
    assert np.ptp(counts, axis=0).max() <= 1  # of each class
    assert np.ptp(counts.sum(axis=1)) <= 1  # and of all images


def test_folds_are_the_same_for_ever_and_differ_by_seed() -> None:
    labels = np.arange(20) % 2
    assert fold_split(labels, 4, 1, 0)[0].tolist() == fold_split(labels, 4, 1, 0)[0].tolist()
    assert len({fold_split(labels, 4, 1, seed)[0].tobytes() for seed in range(3)}) == 3
