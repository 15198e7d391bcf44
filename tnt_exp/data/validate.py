"""What can be found wrong with a dataset section in milliseconds."""

import os
from pathlib import Path

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data.metadata import dataset_info, dataset_path, required_image_size
from tnt_exp.errors import UserError


def validate(config: DatasetConfig) -> None:
    """Raise UserError for what is wrong with the section or with the files it names, without reading images."""
    _check_combination(config)
    dataset_info(config)
    path = dataset_path(config)
    if path is not None:
        _check_path(config.name, path)


def _check_combination(config: DatasetConfig) -> None:
    if config.channels not in (1, 3):
        raise UserError(f"dataset.channels: expected 1 (grey) or 3 (RGB), received {config.channels}")
    if config.name is Source.image_folder:
        required_image_size(config)
        return
    default = DatasetConfig()
    for key in ("image_size", "channels", "memory_limit"):
        value = getattr(config, key)
        if value != getattr(default, key):
            raise UserError(
                f"dataset.{key}={value}: expected only with dataset=image_folder, received with "
                f"dataset={config.name.value}, whose images are taken as they are; leave it out"
            )


def _check_path(name: Source, path: Path) -> None:
    # Imported only where there is a path: these cost milliseconds that a run on bundled data can keep.
    import tarfile
    import zipfile

    from tnt_exp.data.sources.archives import find_files
    from tnt_exp.data.sources.cifar import CIFAR, require_cifar_files
    from tnt_exp.data.sources.image_folder import folder_layout
    from tnt_exp.data.sources.mnist import require_mnist_files
    from tnt_exp.errors import wrap_read_errors

    given = f"dataset.path={path}"
    if not path.exists():
        raise UserError(f"{given}: expected a file or folder, received a path where nothing is; correct it")
    if not os.access(path, os.R_OK):
        raise UserError(f"{given}: expected something you may read, received something you may not; see its rights")
    is_folder = path.is_dir()
    match name:
        case Source.cifar10 | Source.cifar100 if is_folder:
            names = [file for version in CIFAR[name] for file in version.images]
            require_cifar_files(name, path, find_files(path, names))
        case Source.cifar10 | Source.cifar100:
            with wrap_read_errors(path):
                is_archive = tarfile.is_tarfile(path)
            if not is_archive:
                raise UserError(
                    f"{given}: expected a folder or a tar archive (.tar, .tar.gz, ...), received another file"
                )
        case Source.mnist | Source.fashion_mnist if is_folder:
            require_mnist_files(path)
        case Source.image_folder if is_folder:
            folder_layout(path)
        case Source.image_folder:
            raise UserError(f"{given}: expected a folder of class folders, received a file; unpack it first")
        case _ if is_folder or not zipfile.is_zipfile(path):
            raise UserError(f"{given}: expected an .npz file, received {'a folder' if is_folder else 'another file'}")
