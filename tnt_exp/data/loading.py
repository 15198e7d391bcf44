"""From a configuration to a data set in memory."""

import numpy as np

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data.checks import check, location
from tnt_exp.data.dataset import Dataset, Parts, Split, digest
from tnt_exp.data.order import Purpose
from tnt_exp.data.sizes import test_size, train_sizes
from tnt_exp.data.splits import stratified


def load(config: DatasetConfig) -> Dataset:
    """Read, limit and split the images that `config` names.

    In this order: the test part is taken where the source has none, `train_limit` is applied, the
    validation part is taken where the source has none. Every choice is stratified and a function
    of `split_seed`; images keep the order of the source.

    Raises:
        InputError: Data missing, damaged, mislabelled or of another form, or a part would be empty.
    """
    check(config)
    parts = _read(config)
    labels = parts.train.labels
    train = np.arange(len(labels))
    test = parts.test
    if test is None:
        held_out, train = stratified(labels, test_size(len(labels), config), Purpose.test, config.split_seed)
        test = _take(parts.train, held_out)

    if config.train_limit is not None and config.train_limit < len(train):
        kept, _ = stratified(labels[train], config.train_limit, Purpose.limit, config.split_seed)
        train = train[kept]

    validation = parts.validation
    if validation is None and config.validation_fraction > 0:
        _, size = train_sizes(len(train), config)
        held_out, rest = stratified(labels[train], size, Purpose.validation, config.split_seed)
        validation, train = _take(parts.train, train[held_out]), train[rest]

    chosen = _take(parts.train, train)
    return Dataset(
        name=config.name.value,
        train=chosen,
        validation=validation,
        test=test,
        class_names=parts.class_names,
        digest=digest([chosen, validation, test], parts.class_names),
        skipped=parts.skipped,
    )


def _take(split: Split, positions: np.ndarray) -> Split:
    if len(positions) == len(split):
        return split
    return Split(split.images[positions], split.labels[positions])


def _read(config: DatasetConfig) -> Parts:
    # Each source is imported only when it is the one: scikit-learn and Pillow are slow to import.
    path = location(config)
    match config.name:
        case Source.digits:
            from tnt_exp.data.digits import read_digits

            return read_digits()
        case Source.cifar10 | Source.cifar100:
            from tnt_exp.data.cifar import read_cifar
            from tnt_exp.data.download import download

            return download(config.name) if path is None else read_cifar(config.name, path)
        case Source.mnist | Source.fashion_mnist:
            from tnt_exp.data.download import download
            from tnt_exp.data.mnist import read_mnist

            return download(config.name) if path is None else read_mnist(config.name, path)
        case Source.image_folder:
            from tnt_exp.data.image_folder import read_image_folder

            return read_image_folder(config, location(config))
        case Source.npz:
            from tnt_exp.data.npz import read_npz

            return read_npz(location(config))
