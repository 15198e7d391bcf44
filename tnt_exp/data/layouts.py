"""The official files of CIFAR and MNIST: their names and where a folder holds them."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tnt_exp.config.dataset import Source
from tnt_exp.config.errors import InputError
from tnt_exp.data.reading import reading


@dataclass(frozen=True)
class CifarLayout:
    """The files of one version, binary or Python, of one of the two data sets."""

    train: tuple[str, ...]
    test: str
    names: str  # the file of class names; the official names where it is not there
    key: str | None = None  # of the labels in a pickle; None: the binary version
    names_key: str = ""  # of the class names in their pickle
    label_bytes: int = 0  # of a binary record; the last one is the class

    @property
    def images(self) -> tuple[str, ...]:
        """The files that must be there."""
        return (*self.train, self.test)


_FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR = {
    Source.cifar10: (
        CifarLayout(tuple(f"{name}.bin" for name in _FIVE), "test_batch.bin", "batches.meta.txt", label_bytes=1),
        CifarLayout(_FIVE, "test_batch", "batches.meta", key="labels", names_key="label_names"),
    ),
    Source.cifar100: (
        CifarLayout(("train.bin",), "test.bin", "fine_label_names.txt", label_bytes=2),
        CifarLayout(("train",), "test", "meta", key="fine_labels", names_key="fine_label_names"),
    ),
}

# Each as it is or with .gz behind: training images and labels, test images and labels.
MNIST = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def find(folder: Path, names: Collection[str]) -> dict[str, Path]:
    """Those of `names` that are files in a folder or, where it has none of them, in its subfolders.

    Raises:
        InputError: The folder cannot be listed, or two subfolders hold the same name.
    """
    with reading(folder):
        found = {name: folder / name for name in sorted(names) if (folder / name).is_file()}
        below = [] if found else sorted(entry for entry in folder.iterdir() if entry.is_dir())
        for subfolder in below:
            for name in sorted(names):
                if not (subfolder / name).is_file():
                    continue
                if name in found:
                    raise InputError(
                        f"dataset.path={folder}: expected one {name}, received {found[name]} and {subfolder / name}; "
                        "give the folder of one"
                    )
                found[name] = subfolder / name
    return found


def complete_cifar(source: Source, path: Path, found: Collection[str]) -> CifarLayout:
    """The version of which `found` has every file of images.

    Raises:
        InputError: There is none.
    """
    layouts = CIFAR[source]
    best = max(layouts, key=lambda layout: len(set(layout.images) & set(found)))
    missing = [name for name in best.images if name not in found]
    if missing:
        expected = " or ".join(", ".join(layout.images) for layout in layouts)
        raise InputError(
            f"dataset.path={path}: expected the files of {source.value} ({expected}), "
            f"received no {', '.join(missing)}; give the official archive or the folder it unpacks to"
        )
    return best


def complete_mnist(path: Path) -> tuple[Path, ...]:
    """The four files of a folder, in the order of `MNIST`.

    Raises:
        InputError: One is missing.
    """
    found = find(path, [*MNIST, *(f"{name}.gz" for name in MNIST)])
    files = [found.get(name) or found.get(f"{name}.gz") for name in MNIST]
    missing = [name for name, file in zip(MNIST, files, strict=True) if file is None]
    if missing:
        raise InputError(
            f"dataset.path={path}: expected {', '.join(MNIST)} (each may end in .gz), "
            f"received no {', '.join(missing)}; give the folder of the official files, or an mnist.npz"
        )
    return tuple(file for file in files if file is not None)
