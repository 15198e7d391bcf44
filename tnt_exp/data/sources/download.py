"""Data sets that Keras fetches and keeps in its own cache."""

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.data.dataset import RawDataset, make_split
from tnt_exp.data.metadata import CLASS_NAMES
from tnt_exp.errors import UserError


def download(source: Source) -> RawDataset:
    """Fetch a data set through `keras.datasets`, or read it from Keras' cache.

    Raises:
        UserError: It could not be fetched.
    """
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, source.value).load_data()
    except Exception as error:  # Keras raises a bare Exception for a failed download
        reason = " ".join(str(error).split())
        raise UserError(
            f"dataset={source.value}: expected Keras to download it, received: {reason}; "
            f"fetch the official files in another way and give dataset.path=, or use dataset=digits"
        ) from error
    names = CLASS_NAMES[source]

    def images(array: np.ndarray) -> np.ndarray:
        return array if array.ndim == 4 else array[..., None]

    where = f"keras.datasets.{source.value}"
    return RawDataset(
        train=make_split(images(x_train), y_train.reshape(-1), len(names), where),
        test=make_split(images(x_test), y_test.reshape(-1), len(names), where),
        class_names=names,
    )
