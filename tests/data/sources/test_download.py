import keras
import numpy as np
import pytest

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import dataset_info, load_dataset
from tnt_exp.errors import UserError

SHAPES = {
    Source.cifar10: ((50_000, 32, 32, 3), (50_000, 1), 10),
    Source.cifar100: ((50_000, 32, 32, 3), (50_000, 1), 100),
    Source.mnist: ((60_000, 28, 28), (60_000,), 10),
    Source.fashion_mnist: ((60_000, 28, 28), (60_000,), 10),
}


@pytest.mark.parametrize("source", SHAPES)
def test_what_keras_downloads_is_what_the_facts_say(monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    images, labels, classes = SHAPES[source]
    x, y = np.zeros(images, np.uint8), (np.arange(images[0]) % classes).astype(np.uint8).reshape(labels)
    monkeypatch.setattr(getattr(keras.datasets, source.value), "load_data", lambda: ((x, y), (x[:10_000], y[:10_000])))
    config = DatasetConfig(name=source, validation_fraction=0.2)
    dataset = load_dataset(config)
    expected = dataset_info(config)
    assert dataset.image_shape == (expected.height, expected.width, expected.channels)
    assert (dataset.num_classes, len(dataset.train)) == (expected.classes, expected.train)
    assert len(dataset.test) == 10_000


def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_data() -> None:
        raise Exception("URL fetch failure on https://example.org/x.tar.gz:\nNone -- [Errno -3] no network")

    monkeypatch.setattr(keras.datasets.cifar100, "load_data", load_data)
    with pytest.raises(UserError, match=r"dataset=cifar100: .*no network; .*dataset\.path=") as raised:
        load_dataset(DatasetConfig(name=Source.cifar100))
    assert "\n" not in str(raised.value)
