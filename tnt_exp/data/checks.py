"""What can be found wrong with a dataset section in milliseconds."""

import os
from pathlib import Path

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.known import facts


def location(config: DatasetConfig) -> Path | None:
    """`dataset.path` with `~` expanded; None where it is not given."""
    return None if config.path is None else Path(config.path).expanduser()


def check(config: DatasetConfig) -> None:
    """Raise InputError for what is wrong with the section or the files it names, without reading images."""
    _check_combination(config)
    _check_path(config)
    facts(config)


def _check_combination(config: DatasetConfig) -> None:
    name = config.name.value
    if config.channels not in (1, 3):
        raise InputError(f"dataset.channels: expected 1 (grey) or 3 (RGB), received {config.channels}")
    if config.name is Source.image_folder:
        if config.image_size is None:
            raise InputError("dataset.image_size: expected a number of pixels for dataset=image_folder, received none")
        return
    default = DatasetConfig()
    for key in ("image_size", "channels", "on_error"):
        if getattr(config, key) != getattr(default, key):
            raise InputError(
                f"dataset.{key}={getattr(config, key)}: expected only with dataset=image_folder, "
                f"received with dataset={name}, whose images are what they are; leave it out"
            )


def _check_path(config: DatasetConfig) -> None:
    name, path = config.name, location(config)
    if path is None:
        if name in (Source.image_folder, Source.npz):
            raise InputError(f"dataset.path: expected a path for dataset={name.value}, received none")
        return
    if name is Source.digits:
        raise InputError("dataset.path: expected none with dataset=digits, whose images come with the program")
    if not path.exists():
        raise InputError(f"dataset.path={path}: expected a file or folder, received a path where nothing is")
    if name is Source.image_folder and not path.is_dir():
        raise InputError(f"dataset.path={path}: expected a folder of class folders, received a file")
    if name is Source.npz and not path.is_file():
        raise InputError(f"dataset.path={path}: expected an .npz file, received a folder")
    if not os.access(path, os.R_OK):
        raise InputError(f"dataset.path={path}: expected a file or folder you may read, received one you may not")
