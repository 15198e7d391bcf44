"""`tnt-exp predict`: classify image files with a finished run's model."""

import csv
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from tnt_exp.cli import ArgumentParser
from tnt_exp.errors import UserError, printable_name
from tnt_exp.finished_runs.find import RUN_HELP, find_run, load_for_evaluation
from tnt_exp.finished_runs.predict import Prediction, decode_inputs, expand_inputs, predict_images
from tnt_exp.training import device


def main(arguments: Sequence[str]) -> int:
    """Predict and return the exit code: 1 if a file could not be read."""
    parser = ArgumentParser(
        prog="tnt-exp predict",
        description="Classify images with a finished run's model. A file that cannot be read is named, and the exit "
        "code is 1; the others are classified.",
    )
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument("images", nargs="+", help="files, folders, globs, or - for a list on standard input")
    parser.add_argument("--top", type=int, default=3, help="classes per image (default 3)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per call of the model (default 64)")
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", const=_json, dest="form", help="one JSON object per line")
    form.add_argument("--csv", action="store_const", const=_csv, dest="form", help="comma-separated, with a header")
    options = parser.parse_args(list(arguments))
    for name in ("top", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected 1 or more, received {getattr(options, name)}.")
    finished = find_run(options.run, options.uri)
    device.check_backend(finished.config.trainer)
    files = expand_inputs(options.images)
    first = next(files, None)
    if first is None:
        raise UserError(f"{', '.join(options.images)}: expected images (.png, .jpg, ...), found none.")
    size, _, channels = finished.image_shape
    classifier = load_for_evaluation(finished, finished.config.trainer)
    images = decode_inputs(chain([first], files), size, channels)
    stream = predict_images(classifier, images, batch_size=options.batch_size, top=options.top, once=True)
    counter = _Counter()
    try:
        (options.form or _table)(counter.count(stream), list(classifier.class_names))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    counter.report()
    return 1 if counter.unreadable else 0


class _Counter:
    """Counts predictions, and shows the count on standard error if that is a terminal."""

    def __init__(self) -> None:
        self.images = self.unreadable = 0
        self._begin = self._shown = time.monotonic()
        # If the rows go to the same terminal, they are progress enough.
        self._watched = sys.stderr.isatty() and not sys.stdout.isatty()

    def count(self, stream: Iterable[Prediction]) -> Iterator[Prediction]:
        for prediction in stream:
            self.images += 1
            if prediction.error is not None:
                self.unreadable += 1
                print(f"tnt-exp: {prediction.error}", file=sys.stderr)
            yield prediction
            if self._watched and time.monotonic() - self._shown > 0.5:
                self._shown = time.monotonic()
                print(f"\r{self._text()}", end="", file=sys.stderr, flush=True)

    def report(self) -> None:
        print(("\r" if self._watched else "") + self._text(), file=sys.stderr)

    def _text(self) -> str:
        rate = self.images / max(time.monotonic() - self._begin, 1e-9)
        bad = f", {self.unreadable:,} could not be read" if self.unreadable else ""
        return f"{self.images:,} images, {rate:,.0f} images/s{bad}"


def _table(stream: Iterable[Prediction], class_names: Sequence[str]) -> None:
    width = max(map(len, class_names), default=0)
    for row in stream:
        if row.error is not None:
            print(f"{'-':>6}  {'unreadable':<{width}}  {printable_name(row.file)}")
            continue
        (best, probability), *others = row.classes
        rest = ", ".join(f"{name} {part:.3f}" for name, part in others)
        print(f"{probability:6.4f}  {best:<{width}}  {printable_name(row.file)}" + (f"  ({rest})" if rest else ""))


def _json(stream: Iterable[Prediction], class_names: Sequence[str]) -> None:
    for row in stream:
        fields: dict[str, object] = {"file": printable_name(row.file)}
        if row.error is None:
            (best, probability), *_ = row.classes
            fields |= {"class": best, "probability": probability, "classes": dict(row.classes)}
        else:
            fields["error"] = row.error
        print(json.dumps(fields))


def _csv(stream: Iterable[Prediction], class_names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "class", "probability", "error"])
    for row in stream:
        best = row.classes[0] if row.classes else ("", "")
        writer.writerow([printable_name(row.file), *best, row.error or ""])
