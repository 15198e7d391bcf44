"""Data sets that Keras fetches and keeps in its own cache."""

import numpy as np

from tnt_exp.config.dataset import Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.class_names import CLASS_NAMES
from tnt_exp.data.dataset import Parts, labelled


def download(source: Source) -> Parts:
    """Fetch a data set through `keras.datasets`, or read it from Keras' cache.

    Raises:
        InputError: It could not be fetched.
    """
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, source.value).load_data()
    except Exception as error:  # Keras raises a bare Exception for a failed download
        reason = " ".join(str(error).split())
        raise InputError(
            f"dataset={source.value}: expected Keras to download it, received: {reason}; "
            f"fetch the official files in another way and give dataset.path=, or use dataset=digits"
        ) from error
    names = CLASS_NAMES[source]

    def images(array: np.ndarray) -> np.ndarray:
        return array if array.ndim == 4 else array[..., None]

    where = f"keras.datasets.{source.value}"
    return Parts(
        train=labelled(images(x_train), y_train.reshape(-1), len(names), where),
        test=labelled(images(x_test), y_test.reshape(-1), len(names), where),
        class_names=names,
    )
