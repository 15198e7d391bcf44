"""Scikit-learn's bundled handwritten digits (UCI, E. Alpaydin and C. Kaynak, 1998): no download."""

import numpy as np

from tnt_exp.data.dataset import RawDataset, Split


def read_digits() -> RawDataset:
    """All 1,797 images, undivided: uint8 (1797, 8, 8, 1), grey levels 0..16 scaled to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = bunch.images.astype(np.uint16)[..., None]
    images = ((levels * 255 + 8) // 16).astype(np.uint8)  # rounds to the nearest
    return RawDataset(
        train=Split(images, bunch.target.astype(np.int32)),
        test=None,
        class_names=tuple(str(name) for name in bunch.target_names),
    )
