from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tnt_exp.data import Split
from tnt_exp.evaluation import evaluate


class Sides:
    """Logits: the brightness of the left half and of the right half, a third class between."""

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        left, right = images[:, :, :2].mean((1, 2, 3)), images[:, :, 2:].mean((1, 2, 3))
        return np.stack([left, right, (left + 3 * right) / 4], axis=1).astype(np.float32)


def test_flip_takes_the_mean_of_the_logits_of_image_and_mirror() -> None:
    random = np.random.default_rng(0)
    split = Split(random.integers(0, 9, (7, 4, 4, 1)).astype(np.uint8), np.array([0, 1, 2, 0, 1, 2, 0], np.int32))
    plain, flipped = (evaluate(Sides(), split, 3, flip=flip) for flip in (False, True))
    mirrored = Split(split.images[:, :, ::-1], split.labels)
    np.testing.assert_equal(vars(evaluate(Sides(), mirrored, 3, flip=True)), vars(flipped))
    assert plain.loss != flipped.loss

    logits = np.stack([Sides().predict_on_batch(images) for images in (split.images[:], mirrored.images[:])])
    mean = logits.astype(np.float64).mean(axis=0)
    odds = np.exp(mean - mean.max(axis=1, keepdims=True))
    own = odds[np.arange(7), split.labels] / odds.sum(axis=1)
    np.testing.assert_allclose(flipped.loss, -np.log(own).mean(), rtol=1e-12)
    np.testing.assert_array_equal(flipped.predicted, mean.argmax(axis=1))


def predicting(predicted: list[int], labels: list[int], classes: int) -> Any:
    """The evaluation of a classifier that gives these classes."""
    logits = np.eye(classes, dtype=np.float32)[predicted]
    split = Split(np.zeros((len(labels), 1, 1, 1), np.uint8), np.array(labels, np.int32))
    return evaluate(SimpleNamespace(predict_on_batch=lambda images: logits), split, len(labels), flip=False)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(
    ("predicted", "labels"),
    [
        ([0, 1, 2, 0, 1, 2, 2, 0], [0, 1, 2, 0, 0, 0, 1, 0]),
        ([0, 0, 0, 0], [0, 0, 0, 1]),  # class 1 is never predicted, class 2 has no image
        ([2, 2, 0, 1], [0, 0, 0, 1]),  # class 2 is predicted and has no image
        ([1, 0, 0], [0, 1, 1]),  # none is right
    ],
)
def test_balanced_accuracy_and_macro_f1_are_those_of_scikit_learn(predicted: list[int], labels: list[int]) -> None:
    from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score

    found = predicting(predicted, labels, 4)  # class 3 has no image and is never predicted
    metrics = dict(found.metrics("test"))
    assert metrics["test/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted), abs=1e-15)
    assert metrics["test/macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-15)
    recall = recall_score(labels, predicted, labels=range(4), average=None, zero_division=np.nan)
    np.testing.assert_allclose(found.class_accuracy, recall)
    assert np.isnan(found.class_f1[3])


def test_an_image_without_finite_scores_counts_as_a_miss_of_its_class() -> None:
    logits = np.array([[1, 0], [np.nan, 0], [0, 1]], np.float32)
    split = Split(np.zeros((3, 1, 1, 1), np.uint8), np.array([0, 0, 1], np.int32))
    network: Any = SimpleNamespace(predict_on_batch=lambda images: logits)
    found = evaluate(network, split, 3, flip=False)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert found.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
