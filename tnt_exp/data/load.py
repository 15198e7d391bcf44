"""From a configuration to a data set."""

import logging
from typing import assert_never

import numpy as np

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data.dataset import Dataset, RawDataset, SplitName, dataset_digest
from tnt_exp.data.metadata import dataset_path, test_split_size, train_split_sizes
from tnt_exp.data.splits import OrderPurpose, stratified_split
from tnt_exp.data.validate import validate

_log = logging.getLogger(__name__)

_Selection = tuple[SplitName, np.ndarray]  # a part and the positions chosen in it


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read, limit and split the images that `config` names.

    Raises:
        UserError: Data missing, damaged, mislabelled or of another form, or a split would be empty.
    """
    validate(config)
    _log.info("reading dataset=%s%s", config.name.value, "" if config.path is None else f" from {config.path}")
    parts = _read(config)
    train, validation, test = _select(parts, config)
    selections = [train, test] if validation is None else [train, test, validation]
    splits = [part.take(positions) for part, positions in selections]
    kept_validation = None if validation is None else splits[2]
    return Dataset(
        name=config.name.value,
        train=splits[0],
        validation=kept_validation,
        test=splits[1],
        class_names=parts.class_names,
        digest=dataset_digest([splits[0], kept_validation, splits[1]], parts.class_names),
        skipped=sum(len(positions) for _, positions in selections) - sum(len(split) for split in splits),
    )


def _select(parts: RawDataset, config: DatasetConfig) -> tuple[_Selection, _Selection | None, _Selection]:
    """Choose (training, validation, test) images.

    In this order: the test images are taken out of training where the source has none of its own,
    `train_limit` is applied, the validation images are taken out where the source has none.
    Each choice is stratified and a function of `split_seed`; images keep the order of the source.
    """
    source, seed = parts.train, config.split_seed
    train = np.arange(len(source.labels))
    test, validation = _join(parts.test), _join(parts.validation)
    if test is None:
        chosen, train = stratified_split(source.labels, test_split_size(len(train), config), OrderPurpose.test, seed)
        test = source, chosen
    if config.train_limit is not None and config.train_limit < len(train):
        chosen, _ = stratified_split(source.labels[train], config.train_limit, OrderPurpose.limit, seed)
        train = train[chosen]
    if validation is None and config.validation_fraction > 0:
        _, size = train_split_sizes(len(train), config)
        chosen, rest = stratified_split(source.labels[train], size, OrderPurpose.validation, seed)
        validation = source, train[chosen]
        train = train[rest]
    return (source, train), validation, test


def _join(part: SplitName | None) -> _Selection | None:
    return None if part is None else (part, np.arange(len(part.labels)))


def _read(config: DatasetConfig) -> RawDataset:
    # Each source is imported only when it is the one: scikit-learn and Pillow are slow to import.
    name, path = config.name, dataset_path(config)
    if name is Source.digits:
        from tnt_exp.data.sources.bundled import read_digits

        return read_digits()
    if path is None:
        from tnt_exp.data.sources.download import download

        return download(name)
    match name:
        case Source.cifar10 | Source.cifar100:
            from tnt_exp.data.sources.cifar import read_cifar

            return read_cifar(name, path)
        case Source.mnist | Source.fashion_mnist:
            from tnt_exp.data.sources.mnist import read_mnist

            return read_mnist(name, path)
        case Source.image_folder:
            from tnt_exp.data.sources.image_folder import read_image_folder

            return read_image_folder(path, config)
        case Source.npz:
            from tnt_exp.data.sources.npz import read_npz

            return read_npz(path)
        case _:
            assert_never(name)
