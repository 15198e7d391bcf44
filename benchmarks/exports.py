"""Exported models in their own runtimes, for `make bench ARGS=inference`.

    python -m benchmarks.exports FORMAT FOLDER SIDE OVERRIDES    write an export; no OVERRIDES: of the shipped weights

A process of its own writes the export, so that the memory of the measured one is the runtime's; it is written once for
all batches and runtimes.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tnt_exp.export import runtime

FOLDER = "BENCHMARK_EXPORTS"  # environment variable: the folder in which they are written


class Exported:
    """An export, which computes on noise; `side`: side of the images, pixels.

    `openvino`: the precision in which OpenVINO computes; empty: the format's own runtime computes.
    """

    def __init__(self, batch: int, format: str, side: int, overrides: Sequence[str] = (), openvino: str = "") -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        folder = Path(os.environ[FOLDER], "-".join([format, str(side), *overrides]))
        if not folder.exists():
            folder.mkdir()
            command = [sys.executable, "-m", "benchmarks.exports", format, str(folder), str(side), *overrides]
            subprocess.run(command, check=True)
        self.bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self.predict = in_openvino(folder, openvino) if openvino else runtime.RUNTIMES[format](folder)

    def parameters(self) -> int:
        """Not known: a runtime does not count them."""
        return 0

    def infer(self) -> None:
        """One batch."""
        self.predict(self.images)


def in_openvino(folder: Path, precision: str) -> runtime.Model:
    """Load an ONNX export with OpenVINO; `precision`: f32 or bf16, of all but the products of int8."""
    import openvino

    model = openvino.Core().compile_model(folder / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda images: model(images)["logits"]


def main(format: str, folder: Path, side: int, overrides: Sequence[str]) -> None:
    """Write an export of a new model, or of the shipped weights."""
    from tnt_exp import model
    from tnt_exp.config.compose import compose
    from tnt_exp.export import writers
    from tnt_exp.model.weights_file import find_weights

    if overrides:
        classifier = model.build(
            compose(["dataset=cifar100", *overrides]).model, 100, 3, class_names=[*map(str, range(100))]
        )
    else:
        classifier = model.load(find_weights("cifar100"))
    metadata = {"labels": list(classifier.class_names), "input": {"shape": [None, side, side, 3]}}
    classifier = writers.as_float32(classifier)
    if format == "onnx_int8":  # noise is enough, since speed does not depend on the scales
        noise = np.random.default_rng(0).integers(0, 256, (64, side, side, 3), dtype=np.uint8)
        writers.onnx_int8(classifier, metadata, folder, noise)
    else:
        writers.WRITERS[format](classifier, metadata, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
