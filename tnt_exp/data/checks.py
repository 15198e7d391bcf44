"""What can be found wrong with a dataset section in milliseconds."""

import os
from pathlib import Path

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.known import facts


def check(config: DatasetConfig) -> None:
    """Raise InputError for what is wrong with the section or with the files it names, without reading images."""
    _check_combination(config)
    facts(config)
    path = location(config)
    if path is not None:
        _check_path(config.name, path)


def location(config: DatasetConfig) -> Path | None:
    """`dataset.path` with `~` expanded; None where the data come without.

    Raises:
        InputError: There is one too many or too few.
    """
    name = config.name.value
    if not config.path:
        if config.path is not None or config.name in (Source.image_folder, Source.npz):
            raise InputError(f"dataset.path: expected a file or folder for dataset={name}, received none; give it")
        return None
    if config.name is Source.digits:
        raise InputError(
            f"dataset.path={config.path}: expected none with dataset=digits, whose images come with the program; "
            "leave it out or choose another dataset"
        )
    return Path(config.path).expanduser()


def image_size(config: DatasetConfig) -> int:
    """`dataset.image_size` of an image folder, pixels.

    Raises:
        InputError: It is not given.
    """
    if config.image_size is None:
        raise InputError(
            "dataset.image_size: expected a side in pixels for dataset=image_folder, received none; give it"
        )
    return config.image_size


def _check_combination(config: DatasetConfig) -> None:
    if config.channels not in (1, 3):
        raise InputError(f"dataset.channels: expected 1 (grey) or 3 (RGB), received {config.channels}")
    if config.name is Source.image_folder:
        image_size(config)
        return
    default = DatasetConfig()
    for key in ("image_size", "channels", "memory_limit"):
        value = getattr(config, key)
        if value != getattr(default, key):
            raise InputError(
                f"dataset.{key}={value}: expected only with dataset=image_folder, received with "
                f"dataset={config.name.value}, whose images are taken as they are; leave it out"
            )


def _check_path(name: Source, path: Path) -> None:
    # Imported only where there is a path: these cost milliseconds that a run on bundled data can keep.
    import tarfile
    import zipfile

    from tnt_exp.data.folders import layout
    from tnt_exp.data.layouts import CIFAR, complete_cifar, complete_mnist, find
    from tnt_exp.data.reading import reading

    given = f"dataset.path={path}"
    if not path.exists():
        raise InputError(f"{given}: expected a file or folder, received a path where nothing is; correct it")
    if not os.access(path, os.R_OK):
        raise InputError(f"{given}: expected something you may read, received something you may not; see its rights")
    is_folder = path.is_dir()
    match name:
        case Source.cifar10 | Source.cifar100 if is_folder:
            names = [file for version in CIFAR[name] for file in version.images]
            complete_cifar(name, path, find(path, names))
        case Source.cifar10 | Source.cifar100:
            with reading(path):
                is_archive = tarfile.is_tarfile(path)
            if not is_archive:
                raise InputError(
                    f"{given}: expected a folder or a tar archive (.tar, .tar.gz, ...), received another file"
                )
        case Source.mnist | Source.fashion_mnist if is_folder:
            complete_mnist(path)
        case Source.image_folder if is_folder:
            layout(path)
        case Source.image_folder:
            raise InputError(f"{given}: expected a folder of class folders, received a file; unpack it first")
        case _ if is_folder or not zipfile.is_zipfile(path):
            raise InputError(f"{given}: expected an .npz file, received {'a folder' if is_folder else 'another file'}")
