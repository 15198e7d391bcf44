"""Data sets that Keras downloads and caches."""

import numpy as np

from tnt_exp.data.dataset import RawDataset, make_split
from tnt_exp.errors import UserError


def download(name: str, class_names: tuple[str, ...]) -> RawDataset:
    """Download a data set through `keras.datasets`, or read it from the cache of Keras.

    Args:
        name: As in `keras.datasets`.
        class_names: Names of its classes.

    Raises:
        UserError: It could not be downloaded.
    """
    import keras

    try:
        (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception for a failed download
        reason = " ".join(str(error).split())
        raise UserError(
            f"dataset={name}: expected Keras to download it, received: {reason}; "
            f"fetch the official files in another way and give dataset.path=, or use dataset=digits"
        ) from error

    def images(array: np.ndarray) -> np.ndarray:
        return array if array.ndim == 4 else array[..., None]

    where = f"keras.datasets.{name}"
    return RawDataset(
        train=make_split(images(x_train), y_train.reshape(-1), len(class_names), where),
        test=make_split(images(x_test), y_test.reshape(-1), len(class_names), where),
        class_names=class_names,
    )
