"""`tnt-exp export`: a finished run's model in other formats, checked before it is kept."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tnt_exp import data
from tnt_exp.config import InputError
from tnt_exp.config.trainer import Backend, Precision
from tnt_exp.durable import beside
from tnt_exp.export.formats import FORMATS, Format, chosen, missing
from tnt_exp.finished import find, overridden
from tnt_exp.finished.finding import KINDS

if TYPE_CHECKING:
    from tnt_exp.export.checking import Check

_IMAGES = 32  # real ones, to compare on


def main(arguments: Sequence[str]) -> int:
    """Export and return the exit code: 1 where a format was refused."""
    parser = argparse.ArgumentParser(
        prog="tnt-exp export",
        description="A finished run's model in other formats: preprocessing inside, labels in the metadata. Each is "
        "loaded in a fresh process by its own runtime and compared on test images; one that differs is not kept.",
    )
    parser.add_argument("run", help=KINDS)
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="KEY=VALUE",
        help=f"format=all, or some of {','.join(FORMATS)}; output=FOLDER (default: export/ in the run folder); "
        "dataset.path=... where the run's images have moved",
    )
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    options = parser.parse_args(list(arguments))
    settings = dict(text.split("=", 1) for text in options.settings if text.startswith(("format=", "output=")))
    if "format" not in settings:
        raise InputError(f"format: expected format=all or format=NAME of {', '.join(FORMATS)}, received none.")
    formats = _available(settings["format"])
    finished = find(options.run, options.uri)
    others = [text for text in options.settings if not text.startswith(("format=", "output="))]
    config = overridden(finished.config, others)
    data.check(config.dataset)
    output = Path(settings.get("output") or finished.path / "export").expanduser().resolve()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    images = data.load(config.dataset).test.images[:_IMAGES]

    # Every runtime is compared on the CPU: arithmetic of a GPU is another.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import numpy as np

    from tnt_exp.finished.loading import prepared

    trainer = replace(config.trainer, backend=Backend.tensorflow, precision=Precision.float32)
    classifier = prepared(finished, trainer)  # Keras is imported there, on TensorFlow

    from tnt_exp.export.checking import check
    from tnt_exp.export.source import in_float32, metadata
    from tnt_exp.export.writing import WRITERS

    classifier = in_float32(classifier)
    logits = np.asarray(classifier(images))
    about = metadata(finished, classifier)
    checks: dict[str, Check] = {}
    for format_ in formats:
        output.mkdir(parents=True, exist_ok=True)
        try:
            with beside(output / format_.name) as part:
                part.mkdir()
                told = dict(about)
                WRITERS[format_.name](classifier, told, part)
                (part / "metadata.json").write_text(json.dumps(told, indent=2) + "\n")
                checks[format_.name] = check(format_.name, part, images, logits)
        except InputError as error:
            print(f"tnt-exp: {error}", file=sys.stderr)
    _print(checks, output)
    return 0 if len(checks) == len(formats) else 1


def _available(text: str) -> list[Format]:
    """The formats asked for; of `all`, those whose packages are here."""
    formats = chosen(text)
    lines = {format_.name: line for format_ in formats if (line := missing(format_)) is not None}
    for line in lines.values():
        if text != "all":
            raise InputError(line)
        print(f"tnt-exp: left out: {line}", file=sys.stderr)
    return [format_ for format_ in formats if format_.name not in lines]


def _print(checks: "dict[str, Check]", output: Path) -> None:
    from tnt_exp.sweep.table import size, table

    rows = [
        [
            name,
            size(found.bytes),
            f"{found.difference:.1e}",
            f"{found.milliseconds:.2f}",
            str(output / name / FORMATS[name].file),
        ]
        for name, found in checks.items()
    ]
    if rows:
        header = ["format", "size", "largest difference", "ms an image (CPU)", "written"]
        print(table(header, rows, [1, 2, 3]))
