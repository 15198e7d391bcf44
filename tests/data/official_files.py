"""Small data sets, written byte for byte in the official layouts."""

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

Files = dict[str, bytes]


def pixels(images: int, seed: int) -> np.ndarray:
    """uint8 (images, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (images, 32, 32, 3), np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    """The official order of bytes: channel, row, column."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def binary_cifar100(train: int = 200, test: int = 100) -> Files:
    files = {}
    for name, images, seed in (("train.bin", train, 1), ("test.bin", test, 2)):
        fine = (np.arange(images)[:, None] % 100).astype(np.uint8)
        files[name] = np.hstack([fine // 5, fine, planes(pixels(images, seed))]).tobytes()
    files["fine_label_names.txt"] = "".join(f"fine{i}\n" for i in range(100)).encode()
    files["coarse_label_names.txt"] = "".join(f"coarse{i}\n" for i in range(20)).encode()
    return files


def python_cifar100(train: int = 200, test: int = 100, protocol: int = 2) -> Files:
    files = {}
    for name, images, seed in (("train", train, 1), ("test", test, 2)):
        labels = [i % 100 for i in range(images)]
        batch = {
            b"batch_label": b"training batch 1 of 1",
            b"data": planes(pixels(images, seed)),
            b"fine_labels": labels,
            b"coarse_labels": [label // 5 for label in labels],
            b"filenames": [b"a.png"] * images,
        }
        files[name] = pickle.dumps(batch, protocol=protocol)
    files["meta"] = pickle.dumps(
        {b"fine_label_names": [b"fine%d" % i for i in range(100)], b"coarse_label_names": [b"c"] * 20}, protocol
    )
    return files


def binary_cifar10(images: int = 20) -> Files:
    files = {}
    for seed, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        labels = (np.arange(images)[:, None] % 10).astype(np.uint8)
        files[name] = np.hstack([labels, planes(pixels(images, seed))]).tobytes()
    files["batches.meta.txt"] = "".join(f"class{i}\n" for i in range(10)).encode() + b"\n"
    return files


def python_cifar10(images: int = 20, protocol: int = 2) -> Files:
    files = {}
    for seed, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {b"data": planes(pixels(images, seed)), b"labels": [i % 10 for i in range(images)]}
        files[name] = pickle.dumps(batch, protocol=protocol)
    files["batches.meta"] = pickle.dumps({b"label_names": [b"class%d" % i for i in range(10)]}, protocol)
    return files


def tar(files: Files, *folders: str, mode: str = "") -> bytes:
    """A tar archive of the files, in each of the folders; mode gz, bz2, xz or empty."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:
        for folder in folders:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(train: int = 40, test: int = 20) -> Files:
    files = {}
    for prefix, images, seed in (("train", train, 1), ("t10k", test, 2)):
        grey = np.random.default_rng(seed).integers(0, 256, (images, 28, 28), np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = idx(grey)
        files[f"{prefix}-labels-idx1-ubyte"] = idx((np.arange(images) % 10).astype(np.uint8))
    return files


def write(folder: Path, files: Files, compress: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder
