"""The compiled step: it learns, it is the same however it is cut up, and every optimizer setting is felt."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from keras import ops

from tnt_exp.data import Dataset, Split
from tnt_exp.errors import UserError
from tnt_exp.evaluation import evaluate
from tnt_exp.training.train_step import SUMS, StepComputation

pytestmark = pytest.mark.backend

Chunk = tuple[np.ndarray, np.ndarray]


def weights(classifier: Any, step: Any) -> list[np.ndarray]:
    step.sync_to_model()
    return [ops.convert_to_numpy(variable) for variable in classifier.trainable_variables]


def run(step: Any, chunk: Chunk, times: int = 1, rate: float = 1e-2) -> list[np.ndarray]:
    images, labels = chunk
    count = len(images)
    return [ops.convert_to_numpy(step(images, labels, index * count, [rate] * count, 1.0)) for index in range(times)]


def test_loss_falls_on_images_seen_again_and_again(make: Any, chunk: Chunk) -> None:
    _, _, step = make("trainer.label_smoothing=0")
    sums = run(step, chunk, times=60, rate=1e-3)  # at 1e-2 the loss jumps, and where it ends is chance
    assert sums[0].shape == (5,)
    assert sums[0][3] == 32
    assert sums[-1][0] / 32 < 0.5 * sums[0][0] / 32
    assert sums[-1][1] > sums[0][1]
    assert np.all([s[1] <= s[2] <= 32 for s in sums])


def test_first_loss_is_that_of_guessing(make: Any, chunk: Chunk) -> None:
    _, _, step = make()
    assert run(step, chunk)[0][0] / 32 == pytest.approx(np.log(10), abs=0.4)


@pytest.mark.parametrize("augmentation", ["none", "keras_example"])
def test_chunk_equals_single_steps(make: Any, chunk: Chunk, augmentation: str) -> None:
    images, labels = chunk
    overrides = (f"augmentation={augmentation}", "model.mlp_dropout=0.1", "model.attention_dropout=0.1")
    one, _, step = make(*overrides)
    rates = [1e-2, 2e-2, 3e-2, 4e-2]
    at_once = ops.convert_to_numpy(step(images, labels, 7, rates, 1.0))
    other, _, single = make(*overrides)
    apart = [
        ops.convert_to_numpy(single(images[k : k + 1], labels[k : k + 1], 7 + k, [rates[k]], 1.0)) for k in range(4)
    ]
    np.testing.assert_allclose(at_once, np.sum(apart, axis=0), rtol=1e-4)
    for left, right in zip(weights(one, step), weights(other, single), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-4)


def test_same_seed_gives_the_same_bits_and_another_does_not(make: Any, chunk: Chunk) -> None:
    overrides = ("augmentation=keras_example", "model.mlp_dropout=0.2")
    results = []
    for seed in (3, 3, 4):
        classifier, _, step = make(*overrides, f"seed={seed}")
        run(step, chunk, times=2)
        results.append(weights(classifier, step))
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(results[0], results[2], strict=True))


@pytest.mark.parametrize("override", ["trainer.label_smoothing=0.5", "augmentation.horizontal_flip=1"])
def test_setting_changes_the_update(make: Any, chunk: Chunk, override: str) -> None:
    first, _, step = make()
    run(step, chunk)
    second, _, other = make(override)
    run(other, chunk)
    pairs = zip(weights(first, step), weights(second, other), strict=True)
    assert any(np.abs(a - b).max() > 1e-6 for a, b in pairs)


def test_rate_factor_scales_the_whole_update(make: Any, chunk: Chunk) -> None:
    plain, _, _ = make()
    count = len(plain.trainable_variables)
    classifier, _, step = make(learning_rate_factors=[0.0] * (count - 1) + [1.0])
    before = weights(classifier, step)
    run(step, chunk)
    after = weights(classifier, step)
    assert all(np.array_equal(a, b) for a, b in zip(before[:-1], after[:-1], strict=True))
    assert not np.array_equal(before[-1], after[-1])


def test_average_follows_the_weights_and_is_put_back(make: Any, chunk: Chunk) -> None:
    from tnt_exp.training.optimizer import ema_weights

    classifier, optimizer, step = make("optimizer.ema=0.5", "optimizer=sgd")
    start = weights(classifier, step)
    images, labels = chunk
    step(images[:1], labels[:1], 0, [0.1], 1.0)
    raw = weights(classifier, step)
    with ema_weights(classifier.network, optimizer):
        middle = [ops.convert_to_numpy(variable) for variable in classifier.trainable_variables]
    again = [ops.convert_to_numpy(variable) for variable in classifier.trainable_variables]
    assert all(np.array_equal(a, b) for a, b in zip(raw, again, strict=True))
    for a, b, m in zip(start, raw, middle, strict=True):
        # Keras starts its average at the first updated weights.
        low, high = np.minimum(a, b) - 1e-6, np.maximum(a, b) + 1e-6
        assert np.all((m >= low) & (m <= high))


def test_weights_given_from_outside_are_taken_over(make: Any, chunk: Chunk) -> None:
    classifier, _, step = make("optimizer=sgd", "optimizer.momentum=0")
    start = weights(classifier, step)
    run(step, chunk)
    once = weights(classifier, step)
    run(step, chunk)
    step.sync_to_model()
    for variable, value in zip(classifier.trainable_variables, start, strict=True):
        variable.assign(value)
    step.sync_from_model()
    assert all(np.array_equal(a, b) for a, b in zip(start, weights(classifier, step), strict=True))
    run(step, chunk)
    for again, first in zip(weights(classifier, step), once, strict=True):
        np.testing.assert_allclose(again, first, atol=1e-5)


def test_weights_loaded_before_the_first_step_are_taken_over(make: Any, chunk: Chunk) -> None:
    from tnt_exp.training.train_step import StepComputation, compile_train_step

    classifier, optimizer, step = make()
    loaded = [np.full_like(value, 0.5) for value in weights(classifier, step)]
    for variable, value in zip(classifier.trainable_variables, loaded, strict=True):
        variable.assign(value)
    begun = compile_train_step(
        StepComputation(classifier.network, step._computation.augmentation, optimizer), xla=False
    )
    images, labels = chunk
    begun(images[:1], labels[:1], 0, [1e-4], 1.0)
    for value, before in zip(weights(classifier, begun), loaded, strict=True):
        np.testing.assert_allclose(value, before, atol=1e-3)


NAN, INF = np.nan, np.inf
# Logits of six classes, the true class, whether it is the first, whether it is among the first five.
ROWS = [
    ([0, 5, 1, 2, 3, 4], 1, True, True),
    ([0, 5, 1, 2, 3, 4], 0, False, False),
    ([7, 7, 0, 0, 0, 0], 0, True, True),  # of equal scores argmax gives the first
    ([7, 7, 0, 0, 0, 0], 1, False, True),
    ([1, 1, 1, 1, 1, 1], 5, False, False),
    ([NAN, NAN, NAN, NAN, NAN, NAN], 0, False, False),
    ([9, 0, 0, 0, 0, NAN], 0, False, False),
    ([0, INF, 0, 0, 0, 0], 1, False, False),
]


def counts(rows: np.ndarray, labels: np.ndarray) -> tuple[Any, dict[str, float]]:
    """What evaluation makes of logits, and the sums of a training step."""
    network: Any = SimpleNamespace(predict_on_batch=lambda images: rows)
    split = Split(np.zeros((len(rows), 1, 1, 1), np.uint8), labels)
    step = StepComputation(lambda images, **_: ops.convert_to_tensor(rows), None, None)  # type: ignore[arg-type]
    targets, numbers = ops.zeros(rows.shape), ops.convert_to_tensor(labels)
    sums = ops.convert_to_numpy(step.loss(None, None, targets, numbers)[1])
    return evaluate(network, split, len(rows), flip=False), dict(zip(SUMS, sums, strict=True))


def test_ties_and_what_is_not_finite_are_counted_alike_in_evaluation_and_training() -> None:
    first, five = [[row[place] for row in ROWS] for place in (2, 3)]
    rows, labels = np.array([row[0] for row in ROWS], np.float32), np.array([row[1] for row in ROWS], np.int32)
    found, sums = counts(rows, labels)
    assert (sums["correct"], sums["top5_correct"]) == (sum(first), sum(five))
    assert (found.accuracy, found.top5_accuracy) == (sum(first) / 8, sum(five) / 8)
    assert found.right.tolist() == first
    assert np.isnan(found.loss)
    assert found.confidence[5:].tolist() == [0, 0, 0]
    assert found.confusion.sum() == 5
    np.testing.assert_equal(found.class_accuracy, [1 / 4, 1 / 3, NAN, NAN, NAN, 0])
    assert np.isfinite(found.calibration_error())


def test_of_two_classes_one_that_is_not_a_number_is_not_among_the_first_five() -> None:
    found, sums = counts(np.array([[NAN, 1], [0, 1]], np.float32), np.zeros(2, np.int32))
    assert (found.accuracy, found.top5_accuracy) == (0, 0.5)
    assert (sums["correct"], sums["top5_correct"]) == (0, 1)


def unbalanced(labels: list[int]) -> Dataset:
    split = Split(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels, np.int32))
    return Dataset("some", split, None, split, ("cat", "dog", "7", "none seen"), "digest", 0)


def test_weights_of_classes_are_those_of_scikit_learn_or_the_given_ones() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 20 + [1] * 4 + [2]
    dataset = unbalanced(labels)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    np.testing.assert_allclose(dataset.class_weights("balanced"), [*wanted, 0], rtol=1e-6)
    np.testing.assert_array_equal(dataset.class_weights({"dog": 3.5, "7": 2}), np.float32([1, 3.5, 2, 1]))
    assert dataset.class_weights("none") is None
    with pytest.raises(
        UserError, match=r"class_weights: expected names of classes \(cat, dog, 7, none seen\), rec.* cow"
    ):
        dataset.class_weights({"dog": 1.0, "cow": 2.0})


@pytest.mark.parametrize("setting", ["none", "balanced", {"dog": 3.5, "7": 0.0}])
def test_weighted_loss_is_the_reference(setting: Any) -> None:
    """Mean over images of sum over classes of weight * target * -log(probability), as in PyTorch's cross-entropy."""
    labels = np.array([0] * 20 + [1] * 4 + [2], np.int32)
    weights = unbalanced(labels.tolist()).class_weights(setting)
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(25, 4)).astype(np.float32)
    targets = 0.9 * np.eye(4)[labels] + 0.1 / 4  # smoothed
    step = StepComputation(lambda images, **_: ops.convert_to_tensor(logits), None, None, weights)  # type: ignore[arg-type]
    loss, sums = step.loss(None, None, ops.convert_to_tensor(targets.astype(np.float32)), ops.convert_to_tensor(labels))
    log_probabilities = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    factors = np.ones(4) if weights is None else weights.astype(np.float64)
    reference = -(factors * targets * log_probabilities).sum(axis=1).mean()
    assert float(ops.convert_to_numpy(loss)) == pytest.approx(reference, rel=1e-5)
    assert ops.convert_to_numpy(sums)[0] == pytest.approx(25 * reference, rel=1e-5)
