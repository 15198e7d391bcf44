"""What runs differently on a GPU, as far as a processor can show it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tnt_exp.errors import describe_system_error

# PyTorch's tensors as those of a GPU are: NumPy cannot read them where they are, but Keras can copy them.
_ELSEWHERE = """
import sys
import torch
here = torch.Tensor.__array__
def refuse(self, *arguments, **keywords):
    if sys._getframe(1).f_globals["__name__"].startswith("keras."):
        return here(self, *arguments, **keywords)
    raise TypeError("can't convert cuda:0 device type tensor to numpy.")
torch.Tensor.__array__ = refuse
from tnt_exp.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.mark.peers
def test_no_tensor_of_pytorch_is_read_as_if_it_were_in_memory(tmp_path: Path) -> None:
    settings = ["model=tiny", "trainer.backend=torch", "trainer.epochs=1", "dataset.train_limit=200", "tracking=off"]
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, *settings, "trainer.profile=true"],
        cwd=tmp_path,
        env=os.environ | {"KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.backend
@pytest.mark.parametrize("repeats", [1, 2])
def test_chunks_gathered_on_the_device_are_those_of_the_host(make: Any, repeats: int) -> None:
    from keras import ops

    from tnt_exp.data import Batches
    from tnt_exp.data.dataset import Split
    from tnt_exp.training.train_step import DeviceBatches

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
    split = Split(images, random.integers(0, 10, 50).astype(np.int32))
    assert DeviceBatches.fits(split)
    host, device = (kind(split, 8, 3, repeats) for kind in (Batches, DeviceBatches))
    pairs = list(zip(host.chunks(1, 1, 2), device.chunks(1, 1, 2), strict=True))
    assert len(pairs) == 3
    for (expected, labels), (found, same_labels) in pairs:
        np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)
        np.testing.assert_array_equal(same_labels, labels)
        assert same_labels.dtype == labels.dtype
    if repeats > 1:
        return
    # The step takes them, and gives the same bits.
    sums = []
    for batches in (host, device):
        _, _, step = make("seed=5")
        sums.append(
            [
                ops.convert_to_numpy(step(*chunk, 2 * k, [1e-3] * len(chunk[0]), 1.0))
                for k, chunk in enumerate(batches.chunks(1, 1, 2))
            ]
        )
    np.testing.assert_array_equal(*sums)


def test_images_in_files_are_not_copied_to_the_device() -> None:
    from tnt_exp.data.dataset import Split
    from tnt_exp.data.image_files import FileImages
    from tnt_exp.training.train_step import DeviceBatches

    assert not DeviceBatches.fits(Split(FileImages([Path("a.png")], 8, 3), np.zeros(1, np.int32)))


@pytest.mark.peers
def test_attention_in_pieces_is_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tnt_exp.model import attention

    monkeypatch.setattr(attention, "_GRID_ROWS", 3)
    q, k, v = torch.randn(3, 8, 2, 5, 4, requires_grad=True).unbind()
    whole = attention._torch_attention(q, k, v)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    pieces = attention._torch_attention(q, k, v)
    torch.testing.assert_close(pieces, whole)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("INTERNAL: failed to allocate: CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 19327352832 bytes."),
    ],
)
def test_a_full_gpu_is_reported_with_the_remedy(error: Exception) -> None:
    line = describe_system_error(error)
    assert line is not None
    assert "half the trainer.batch_size" in line
    assert "\n" not in line


def test_evaluation_on_a_gpu_takes_larger_batches() -> None:
    from tnt_exp.training.device import Device

    cpu, gpu = (Device("jax", kind, "name", 1, True, 1, "float32") for kind in ("cpu", "gpu"))
    assert (cpu.evaluation_batch_size(128), gpu.evaluation_batch_size(128)) == (128, 512)


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.jax)])
def test_tf32_reaches_the_backend(tmp_path: Path, backend: str, tf32: bool) -> None:
    """A GPU is claimed to be there, before the backend is asked to use it."""
    program = """
import sys
from tnt_exp.config.compose import compose
from tnt_exp.training.device import prepare_device
backend, tf32 = sys.argv[1:]
if backend == "jax":
    import jax
    class Gpu:
        platform, device_kind = "gpu", "a GPU"
    jax.devices = jax.local_devices = lambda *_: [Gpu()]
    found = lambda: jax.config.jax_default_matmul_precision != "highest"
else:
    import tensorflow as tf
    real = tf.config.list_physical_devices
    class Gpu:
        name = "a GPU"
    tf.config.list_physical_devices = lambda kind=None: [Gpu()] if kind == "GPU" else real(kind)
    tf.config.experimental.set_memory_growth = lambda *_: None
    tf.config.experimental.get_device_details = lambda gpu: {"device_name": "a GPU"}
    found = tf.config.experimental.tensor_float_32_execution_enabled
device = prepare_device(compose([f"trainer.backend={backend}", f"trainer.tf32={tf32}"]).trainer)
assert (device.kind, device.name, device.steps_per_dispatch, device.xla) == ("gpu", "a GPU", 32, True), device
print(found())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, backend, str(tf32).lower()],
        cwd=tmp_path,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == str(tf32)


@pytest.mark.peers
@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_and_determinism_reach_pytorch(tmp_path: Path, tf32: bool) -> None:
    program = """
import os, sys
import torch
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_name = lambda index=0: "a GPU"
torch.cuda.get_device_capability = lambda index=0: (9, 0)
os.environ["KERAS_TORCH_DEVICE"] = "cpu"
from tnt_exp.config.compose import compose
from tnt_exp.training.device import prepare_device
settings = ["trainer.backend=torch", f"trainer.tf32={sys.argv[1]}", "trainer.deterministic=true"]
device = prepare_device(compose(settings).trainer)
assert (device.kind, device.name, device.steps_per_dispatch) == ("gpu", "a GPU", 1), device
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
print(torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
"""
    environment = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tf32).lower()],
        cwd=tmp_path,
        env=environment | {"KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["tf32" if tf32 else "ieee"] * 2
