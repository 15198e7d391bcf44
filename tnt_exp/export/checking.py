"""Whether an exported model says what the run's model says."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tnt_exp.config import InputError
from tnt_exp.export import runtime
from tnt_exp.export.writing import last_line

TOLERANCE = 1e-4  # largest difference of a logit


@dataclass(frozen=True)
class Check:
    """How an export compares.

    Attributes:
        difference: Largest difference of a logit over all images.
        milliseconds: Median time of one image, on the CPU.
        bytes: Size on the disk.
    """

    difference: float
    milliseconds: float
    bytes: int


def check(format_: str, folder: Path, images: np.ndarray, logits: np.ndarray) -> Check:
    """Load an export in a fresh process by its own runtime and compare.

    Args:
        format_: Name of the format.
        folder: Where it was written.
        images: uint8 (N, H, W, C), real ones.
        logits: float32 (N, classes): what the run's model says of them.

    Raises:
        InputError: It cannot be loaded, or differs by more than `TOLERANCE`.
    """
    with tempfile.TemporaryDirectory() as beside:
        given, answers = Path(beside) / "images.npy", Path(beside) / "answers.npz"
        np.save(given, images)
        command = [sys.executable, "-P", runtime.__file__, format_, str(folder.resolve()), str(given), str(answers)]
        environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
        done = subprocess.run(command, cwd=beside, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"format={format_}: expected a model that loads, received: {last_line(done.stderr)}")
        with np.load(answers) as found:
            said, milliseconds = found["logits"], float(found["milliseconds"])
    difference = float(np.abs(said - logits).max())
    if not difference <= TOLERANCE:  # NaN is no agreement either
        raise InputError(
            f"format={format_}: expected logits within {TOLERANCE} of the run's model, received a difference of "
            f"{difference:.3g}; nothing was written."
        )
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Check(difference, milliseconds, size)
