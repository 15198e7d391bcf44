import numpy as np

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
