"""`tnt-exp export`: write a finished run's model in other formats; each is verified before it is kept."""

import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tnt_exp.atomic_files import atomic_path
from tnt_exp.cli import ArgumentParser
from tnt_exp.config.trainer import Backend, Precision
from tnt_exp.errors import UserError
from tnt_exp.export.formats import FORMATS, INT8, Format, chosen, missing
from tnt_exp.finished_runs import test_images
from tnt_exp.finished_runs.find import RUN_HELP, find_run, load_for_evaluation
from tnt_exp.formatting import format_bytes, format_table

if TYPE_CHECKING:
    from tnt_exp.export.writers import ExportCheck

_IMAGES = 32  # real images on which exports are compared
_IMAGES_OF_INT8 = 1_000  # those on which the accuracy of int8 is measured
_CALIBRATION_IMAGES = 320  # training images from which int8 takes the scales of tokens
_SETTINGS = ("format", "quantize", "output")


def main(arguments: Sequence[str]) -> int:
    """Export, and return the exit code: 1 if a format was refused."""
    parser = ArgumentParser(
        prog="tnt-exp export",
        description="A finished run's model in other formats: preprocessing inside, labels in the metadata. Each is "
        "loaded in a fresh process by its own runtime and compared on test images; one that differs is not kept.",
    )
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="KEY=VALUE",
        help=f"format=all, or some of {','.join(FORMATS)}; quantize=int8 with format=onnx; output=FOLDER (default: "
        "export/ in the run folder); dataset.path=... if the run's images have moved",
    )
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    pairs = [(text, *text.partition("=")[::2]) for text in options.settings]
    settings = {key: value for _, key, value in pairs if key in _SETTINGS}
    if "format" not in settings:
        raise UserError(f"format: expected format=all or format=NAME of {', '.join(FORMATS)}, received none.")
    formats = _available(settings["format"], settings.get("quantize"))
    finished = find_run(options.run, options.uri)
    config, own = test_images.configure(finished, [text for text, key, _ in pairs if key not in _SETTINGS])
    output = Path(settings.get("output") or finished.output / "export").expanduser().resolve()
    for folder in (output / format_.name for format_ in formats):
        if folder.exists() and not (folder / "metadata.json").is_file():
            raise UserError(f"output={output}: expected no {folder} but an earlier export, received another; move it.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger().addFilter(lambda record: record.levelno > logging.WARNING)  # ONNX Runtime's advice for int8
    test = test_images.read_images(finished, config, own=own)
    count = _IMAGES_OF_INT8 if formats == [INT8] else _IMAGES
    images, labels = test.split.images[:count], test.split.labels[:count]

    # All runtimes are compared on the CPU, because GPUs round differently.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    trainer = replace(config.trainer, backend=Backend.tensorflow, precision=Precision.float32)
    classifier = load_for_evaluation(finished, trainer)  # Keras is imported there, on TensorFlow

    from tnt_exp.model.pretrained import timm_problem

    if settings["format"] == "all" and (problem := timm_problem(classifier.network)):
        formats = [format_ for format_ in formats if format_.name != "timm"]
        print(f"tnt-exp: left out: format=timm: {problem}", file=sys.stderr)

    from tnt_exp.export import writers

    classifier = writers.as_float32(classifier)
    batches = [images[begin : begin + _IMAGES] for begin in range(0, len(images), _IMAGES)]
    logits = np.concatenate([classifier.predict_on_batch(batch) for batch in batches])
    about = writers.export_metadata(
        classifier,
        finished.image_shape,
        run=finished.path.name,
        mlflow_run_id=finished.mlflow_run_id,
        metrics=finished.result["metrics"],
    )
    checks: dict[str, ExportCheck] = {}
    for format_ in formats:
        output.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_path(output / format_.name) as part:
                part.mkdir()
                metadata = dict(about)
                if format_ == INT8:
                    train = test_images.training_images(finished, config)
                    every = math.ceil(len(train) / _CALIBRATION_IMAGES)
                    writers.onnx_int8(classifier, metadata, part, train.images[::every])
                else:
                    writers.WRITERS[format_.name](classifier, metadata, part)
                (part / "example.py").write_text(writers.example_program(format_.name))
                tolerance = math.inf if format_ == INT8 else writers.TOLERANCE
                check = writers.verify_export(format_.name, part, images, logits, tolerance)
                if format_ == INT8:
                    accuracy = [float((found.argmax(axis=1) == labels).mean()) for found in (check.logits, logits)]
                    metadata["quantization"] = dict(zip(("int8", "float32"), accuracy, strict=True), images=len(images))
                (part / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
                checks[format_.name] = check
        except UserError as error:
            print(f"tnt-exp: {error}", file=sys.stderr)
    _print(checks, output)
    if INT8.name in checks:
        found = metadata["quantization"]
        print(f"accuracy on {found['images']:,} test images: {found['int8']:.4f}, in float32 {found['float32']:.4f}")
        for note in test.notes:
            print(f"  note: {note}")
    return 0 if len(checks) == len(formats) else 1


def _available(text: str, quantize: str | None) -> list[Format]:
    """Return the formats asked for; of `all`, those whose packages are installed."""
    formats = chosen(text, quantize)
    lines = {format_.name: line for format_ in formats if (line := missing(format_)) is not None}
    for line in lines.values():
        if text != "all":
            raise UserError(line)
        print(f"tnt-exp: left out: {line}", file=sys.stderr)
    return [format_ for format_ in formats if format_.name not in lines]


def _print(checks: "dict[str, ExportCheck]", output: Path) -> None:
    rows = [
        [
            name,
            format_bytes(found.bytes),
            f"{found.difference:.1e}",
            f"{found.milliseconds:.2f}",
            str(output / name / {**FORMATS, INT8.name: INT8}[name].file),
        ]
        for name, found in checks.items()
    ]
    if rows:
        header = ["format", "size", "largest difference", "ms per image (CPU)", "written"]
        print(format_table(header, rows, [1, 2, 3]))
