"""`tnt-exp export`: write a finished run's model in other formats; each is verified before it is kept."""

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp import data
from tnt_exp.atomic_files import atomic_path
from tnt_exp.cli import ArgumentParser
from tnt_exp.config.trainer import Backend, Precision
from tnt_exp.errors import UserError
from tnt_exp.export.formats import FORMATS, Format, chosen, missing
from tnt_exp.finished_runs import apply_overrides, find_run
from tnt_exp.finished_runs.find import RUN_HELP

if TYPE_CHECKING:
    from tnt_exp.export.writers import ExportCheck

_IMAGES = 32  # real images on which exports are compared


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
        help=f"format=all, or some of {','.join(FORMATS)}; output=FOLDER (default: export/ in the run folder); "
        "dataset.path=... if the run's images have moved",
    )
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    settings = dict(text.split("=", 1) for text in options.settings if text.startswith(("format=", "output=")))
    if "format" not in settings:
        raise UserError(f"format: expected format=all or format=NAME of {', '.join(FORMATS)}, received none.")
    formats = _available(settings["format"])
    finished = find_run(options.run, options.uri)
    others = [text for text in options.settings if not text.startswith(("format=", "output="))]
    config = apply_overrides(finished.config, others)
    data.validate(config.dataset)
    output = Path(settings.get("output") or finished.output / "export").expanduser().resolve()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    images = data.load_dataset(config.dataset).test.images[:_IMAGES]

    # All runtimes are compared on the CPU, because GPUs round differently.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import numpy as np

    from tnt_exp.finished_runs.find import load_for_evaluation
    from tnt_exp.model.pretrained import timm_problem

    trainer = replace(config.trainer, backend=Backend.tensorflow, precision=Precision.float32)
    classifier = load_for_evaluation(finished, trainer)  # Keras is imported there, on TensorFlow

    if settings["format"] == "all" and (problem := timm_problem(classifier.network)):
        formats = [format_ for format_ in formats if format_.name != "timm"]
        print(f"tnt-exp: left out: format=timm: {problem}", file=sys.stderr)

    from tnt_exp.export.writers import WRITERS, as_float32, example_program, export_metadata, verify_export

    classifier = as_float32(classifier)
    logits = np.asarray(classifier(images))
    about = export_metadata(
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
                WRITERS[format_.name](classifier, metadata, part)
                (part / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
                (part / "example.py").write_text(example_program(format_.name))
                checks[format_.name] = verify_export(format_.name, part, images, logits)
        except UserError as error:
            print(f"tnt-exp: {error}", file=sys.stderr)
    _print(checks, output)
    return 0 if len(checks) == len(formats) else 1


def _available(text: str) -> list[Format]:
    """Return the formats asked for; of `all`, those whose packages are installed."""
    formats = chosen(text)
    lines = {format_.name: line for format_ in formats if (line := missing(format_)) is not None}
    for line in lines.values():
        if text != "all":
            raise UserError(line)
        print(f"tnt-exp: left out: {line}", file=sys.stderr)
    return [format_ for format_ in formats if format_.name not in lines]


def _print(checks: "dict[str, ExportCheck]", output: Path) -> None:
    from tnt_exp.formatting import format_bytes, format_table

    rows = [
        [
            name,
            format_bytes(found.bytes),
            f"{found.difference:.1e}",
            f"{found.milliseconds:.2f}",
            str(output / name / FORMATS[name].file),
        ]
        for name, found in checks.items()
    ]
    if rows:
        header = ["format", "size", "largest difference", "ms per image (CPU)", "written"]
        print(format_table(header, rows, [1, 2, 3]))
