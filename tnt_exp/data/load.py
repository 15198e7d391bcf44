"""Check and load the data set of a configuration: read, limit, split."""

import logging

import numpy as np

from tnt_exp.config.dataset import DatasetConfig
from tnt_exp.data.dataset import Dataset, LazySplit, RawDataset, Split, dataset_digest
from tnt_exp.data.sources import get_source
from tnt_exp.data.sources.source import DatasetInfo, required_path
from tnt_exp.data.splits import RandomStream, fold_split, stratified_split, test_split_size, train_split_sizes
from tnt_exp.errors import UserError

_log = logging.getLogger(__name__)

_Selection = tuple[LazySplit, np.ndarray]  # images and the positions that are chosen
_KEYS_OF_SOME_SOURCES = ("image_size", "channels", "memory_limit")


def validate(config: DatasetConfig) -> None:
    """Check the section and the files that it names, or raise `UserError`; no image is read."""
    if config.channels not in (1, 3):
        raise UserError(f"dataset.channels: expected 1 (grey) or 3 (RGB), received {config.channels}")
    if config.path == "":
        required_path(config)  # raises, also for a source that takes no path
    source, default = get_source(config.name), DatasetConfig()
    for key in _KEYS_OF_SOME_SOURCES:
        value = getattr(config, key)
        if key not in source.own_keys and value != getattr(default, key):
            raise UserError(
                f"dataset.{key}={value}: expected only with dataset=image_folder, received with "
                f"dataset={config.name.value}, whose images are taken as they are; leave it out"
            )
    source.validate(config)
    source.info(config)


def dataset_info(config: DatasetConfig) -> DatasetInfo:
    """Return what is known about the data set before it is read, or raise `UserError`: a split would be empty."""
    return get_source(config.name).info(config)


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read, limit and split the data set, or raise `UserError`: data are missing or damaged, or a split is empty."""
    validate(config)
    _log.info("reading dataset=%s%s", config.name.value, "" if config.path is None else f" from {config.path}")
    parts = get_source(config.name).read(config)
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
        listed=sum(len(part.labels) for part in (parts.train, parts.validation, parts.test) if part is not None),
    )


def load_test_split(config: DatasetConfig, trained: DatasetConfig) -> tuple[Split | None, int, tuple[str, ...]]:
    """Return the test images (None: none is left), how many are left out, and the class names.

    Those are left out by which `trained`, the same data split in another way, trains or validates.
    """
    parts = get_source(config.name).read(config)
    part, test = _select(parts, config)[2]
    seen = [positions for source, positions in filter(None, _select(parts, trained)[:2]) if source is part]
    fresh = np.setdiff1d(test, np.concatenate([[], *seen]))
    return part.take(fresh) if len(fresh) else None, len(test) - len(fresh), parts.class_names


def _select(parts: RawDataset, config: DatasetConfig) -> tuple[_Selection, _Selection | None, _Selection]:
    """Return the (training, validation, test) images.

    In this order: test images are taken from the training images if the source has none or `folds` are asked for (a
    test part of the source is not used then), `train_limit` is applied, validation images are taken if the source has
    none. Each choice is stratified and a function of `split_seed`; images keep the order of the source.
    """
    source, seed = parts.train, config.split_seed
    train = np.arange(len(source.labels))
    test, validation = _join(parts.test), _join(parts.validation)
    if config.folds is not None:
        if test is not None:
            _log.warning("dataset.folds: the test part of %s is not used", config.name.value)
        test_split_size(len(train), config)  # raises an error if there are too few
        chosen, train = fold_split(source.labels, config.folds, config.fold, seed)
        test = source, chosen
    elif test is None:
        chosen, train = stratified_split(source.labels, test_split_size(len(train), config), RandomStream.test, seed)
        test = source, chosen
    if config.train_limit is not None and config.train_limit < len(train):
        chosen, _ = stratified_split(source.labels[train], config.train_limit, RandomStream.limit, seed)
        train = train[chosen]
    if validation is None and config.validation_fraction > 0:
        _, size = train_split_sizes(len(train), config)
        chosen, rest = stratified_split(source.labels[train], size, RandomStream.validation, seed)
        validation = source, train[chosen]
        train = train[rest]
    return (source, train), validation, test


def _join(part: LazySplit | None) -> _Selection | None:
    return None if part is None else (part, np.arange(len(part.labels)))
