"""Checkpoints that are whole or absent.

A checkpoint is two files: `step-00000042.safetensors` (arrays) and `step-00000042.json` (values, and the size and
SHA-256 of the other file). Each is written under a temporary name, flushed to the disk and renamed, the JSON file last:
where it is missing or does not match, there is no checkpoint.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tnt_exp.atomic_files import JsonObject, atomic_write
from tnt_exp.training.distributed import on_process_0

log = logging.getLogger("tnt_exp")


class NonFiniteError(RuntimeError):
    """The loss or the state of a run is infinite or not a number."""


def all_finite(array: np.ndarray) -> bool:
    """Return True if all values are finite (by minimum and maximum: no copy, unlike `np.isfinite`)."""
    if array.size == 0 or array.dtype.kind in "biuSU":
        return True
    # bfloat16 is no kind of NumPy's own, and has no fast minimum.
    numbers = array if array.dtype.kind == "f" else array.astype(np.float32)
    return bool(np.isfinite(numbers.min()) and np.isfinite(numbers.max()))


class Checkpoint(NamedTuple):
    """The state of a run at a step."""

    step: int  # training steps made so far
    arrays: dict[str, np.ndarray]  # weights, optimizer, random state
    values: JsonObject  # everything else


class CheckpointStore:
    """The checkpoints of a run, newest last; process 0 has them, and the others get what it reads.

    Args:
        folder: Where they are; created when the first is written.
        keep: How many to keep.
        keep_period: The newest one at a multiple of this many steps is kept as well; None: no such rule.
    """

    def __init__(self, folder: Path, keep: int, keep_period: int | None = None) -> None:
        self._folder = folder
        self._keep = keep
        self._keep_period = keep_period
        self._written: Future[None] | None = None

    @on_process_0
    def save(self, checkpoint: Checkpoint) -> None:
        """Write in the background, after the previous one; the caller must not change the arrays.

        Raises:
            OSError: The previous one could not be written.
        """
        self.wait()
        numbers = json.dumps(checkpoint.values)  # here, because the caller keeps changing them
        executor = ThreadPoolExecutor(1, "checkpoint")
        self._written = executor.submit(self._write, checkpoint.step, checkpoint.arrays, numbers)
        executor.shutdown(wait=False)  # its thread ends with this write

    @on_process_0
    def wait(self) -> None:
        """Wait until the last checkpoint is on the disk.

        Raises:
            OSError: It could not be written.
        """
        if self._written is not None:
            wait([self._written])
            written, self._written = self._written, None
            written.result()

    def newest(self, *, at_period: bool = False) -> Checkpoint | None:
        """Return the newest checkpoint that verifies; damaged ones are reported and skipped.

        With `at_period`, only those at a multiple of `keep_period` steps count.
        """
        found = self._newest(at_period)  # a plain list if it came from another process
        return Checkpoint(*found) if found else None

    @on_process_0
    def _newest(self, at_period: bool) -> Checkpoint | None:
        for manifest in reversed(self._manifests()):
            if at_period and not self._at_period(manifest):
                continue
            try:
                return _read_checkpoint(manifest)
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                log.warning("checkpoint %s is damaged and skipped: %s", manifest.stem, error)
        return None

    def name(self, step: int) -> str:
        """Return the path of the checkpoint of a step, without suffix."""
        return str(self._folder / f"step-{step:08d}")

    @on_process_0
    def delete_after(self, step: int) -> None:
        """Remove the checkpoints of later steps."""
        self._remove([manifest for manifest in self._manifests() if _step_of(manifest) > step])

    def _at_period(self, manifest: Path) -> bool:
        return self._keep_period is not None and _step_of(manifest) % self._keep_period == 0

    def _manifests(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.json"))

    def _write(self, step: int, arrays: dict[str, np.ndarray], numbers: str) -> None:
        self._folder.mkdir(exist_ok=True)
        data = save(arrays)
        atomic_write(Path(f"{self.name(step)}.safetensors"), data)
        text = json.dumps({"step": step, "bytes": len(data), "sha256": _hash(data), "numbers": numbers})
        sealed = {"sha256": _hash(text.encode()), "manifest": text}
        atomic_write(Path(f"{self.name(step)}.json"), json.dumps(sealed))
        manifests = self._manifests()
        at_period = [manifest for manifest in manifests if self._at_period(manifest)][-1:]
        self._remove([manifest for manifest in manifests[: -self._keep] if manifest not in at_period])

    def _remove(self, manifests: Iterable[Path]) -> None:
        for manifest in manifests:
            # The manifest goes first: arrays without one are no checkpoint.
            manifest.unlink(missing_ok=True)
            manifest.with_suffix(".safetensors").unlink(missing_ok=True)


def _step_of(manifest: Path) -> int:
    return int(manifest.stem.removeprefix("step-"))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_checkpoint(file: Path) -> Checkpoint:
    sealed = json.loads(file.read_bytes())
    if _hash(sealed["manifest"].encode()) != sealed["sha256"]:
        raise ValueError(f"{file.name} does not match its own SHA-256")
    manifest = json.loads(sealed["manifest"])
    arrays = file.with_suffix(".safetensors")
    data = arrays.read_bytes()
    if len(data) != manifest["bytes"]:
        raise ValueError(f"{arrays.name} has {len(data)} bytes instead of {manifest['bytes']}")
    if _hash(data) != manifest["sha256"]:
        raise ValueError(f"{arrays.name} does not match its SHA-256")
    return Checkpoint(manifest["step"], load(data), json.loads(manifest["numbers"]))
