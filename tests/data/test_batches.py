import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tnt_exp.data import Batches, Split, epoch_order, padded_batches


def split_of(size: int) -> Split:
    """Each image holds its own number."""
    numbers = np.arange(size)
    images = np.broadcast_to(numbers[:, None, None, None], (size, 4, 5, 3)).astype(np.uint8)
    return Split(np.ascontiguousarray(images), (numbers % 7).astype(np.int32))


@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(0, 300))
def test_an_epoch_order_is_a_permutation_and_a_function_of_its_arguments(seed: int, epoch: int, samples: int) -> None:
    first = epoch_order(seed, epoch, samples)
    assert sorted(first) == list(range(samples))
    np.testing.assert_array_equal(first, epoch_order(seed, epoch, samples))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {epoch_order(seed, epoch, 50).tobytes() for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.integers(1, 9),
    st.integers(0, 5),
    st.none() | st.integers(1, 20),
    st.data(),
)
def test_an_epoch_is_the_same_wherever_it_is_taken_up(
    size: int, batch_size: int, steps: int, epoch: int, epoch_steps: int | None, data: st.DataObject
) -> None:
    if batch_size > size and epoch_steps is None:
        return
    batches = Batches(split_of(size), batch_size, seed=5, steps_per_epoch=epoch_steps)
    assert batches.steps_per_epoch == (epoch_steps or size // batch_size)
    whole = list(batches.chunks(epoch, 0, max(1, batches.steps_per_epoch)))
    start = data.draw(st.integers(0, batches.steps_per_epoch))
    part = list(batches.chunks(epoch, start, steps))
    assert sum(len(images) for images, _ in part) == batches.steps_per_epoch - start
    if not part:
        return
    for images, labels in part:
        assert images.shape == (len(images), batch_size, 4, 5, 3)
        assert labels.shape == (len(images), batch_size)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert len(images) <= steps
    np.testing.assert_array_equal(np.concatenate([images for images, _ in part]), whole[0][0][start:])
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in part]), whole[0][1][start:])


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_parts_of_a_batch_are_the_batch(repeats: int) -> None:
    (images, labels), *_ = Batches(split_of(50), 24, seed=5, repeats=repeats).chunks(1, 0, 2)
    parts = [next(Batches(split_of(50), 24, 5, repeats, part=part, parts=3).chunks(1, 0, 2)) for part in range(3)]
    assert all(found.shape == (2, 8, 4, 5, 3) for found, _ in parts)
    np.testing.assert_array_equal(np.concatenate([found for found, _ in parts], axis=1), images)
    np.testing.assert_array_equal(np.concatenate([found for _, found in parts], axis=1), labels)


def test_an_epoch_shows_each_image_once_with_its_label() -> None:
    split = split_of(40)
    ((images, labels),) = Batches(split, 8, seed=0).chunks(epoch=3, start_step=0, steps=5)
    numbers = images[..., 0, 0, 0].reshape(-1)
    np.testing.assert_array_equal(numbers, epoch_order(0, 3, 40))
    np.testing.assert_array_equal(labels.reshape(-1), numbers % 7)


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 2]))
def test_epochs_of_a_number_of_steps_are_cut_from_passes_over_all_images(
    size: int, epoch_steps: int, distinct: int, repeats: int
) -> None:
    batches = Batches(split_of(size), distinct * repeats, 3, repeats, epoch_steps)
    chunks = [chunk for epoch in range(7) for chunk in batches.chunk_positions(epoch, 0, 3)]
    seen = np.concatenate(chunks)
    assert len(seen) == 7 * epoch_steps * distinct
    passes = np.concatenate([epoch_order(3, number, size) for number in range(len(seen) // size + 1)])
    np.testing.assert_array_equal(seen, passes[: len(seen)])


def test_chunks_do_not_share_memory() -> None:
    split = split_of(40)
    first, second = list(Batches(split, 8, seed=0).chunks(0, 0, 2))[:2]
    before = second[0].copy()
    first[0][:] = 255
    np.testing.assert_array_equal(second[0], before)
    np.testing.assert_array_equal(split.images, split_of(40).images)


@pytest.mark.parametrize(("size", "counts"), [(8, [4, 4]), (9, [4, 4, 1]), (3, [3])])
def test_padded_batches_have_one_shape_and_count_what_is_real(size: int, counts: list[int]) -> None:
    split = split_of(size)
    batches = list(padded_batches(split, 4))
    assert [count for _, _, count in batches] == counts
    assert all(images.shape == (4, 4, 5, 3) and labels.shape == (4,) for images, labels, _ in batches)
    np.testing.assert_array_equal(np.concatenate([images[:count] for images, _, count in batches]), split.images)
    np.testing.assert_array_equal(np.concatenate([labels[:count] for _, labels, count in batches]), split.labels)
    images, labels, count = batches[-1]
    assert (images[count:] == size - 1).all()
    assert (labels[count:] == split.labels[-1]).all()


@pytest.mark.parametrize("repeats", [1, 2, 4])
def test_a_repeated_image_is_in_one_batch_that_often(repeats: int) -> None:
    batches = Batches(split_of(42), 8, seed=3, repeats=repeats)
    assert batches.steps_per_epoch == 5  # as many as without
    ((images, labels),) = batches.chunks(epoch=1, start_step=0, steps=5)
    numbers = images[..., 0, 0, 0]
    assert images.shape == (5, 8, 4, 5, 3)
    np.testing.assert_array_equal(numbers.reshape(-1, repeats)[:, 0], epoch_order(3, 1, 42)[: 40 // repeats])
    assert (numbers.reshape(-1, repeats)[:, 0] == numbers.reshape(-1, repeats).T).all()
    np.testing.assert_array_equal(labels, numbers % 7)
    for start in range(5):
        rest = np.concatenate([part for part, _ in batches.chunks(1, start, 2)])
        np.testing.assert_array_equal(rest, images[start:])
