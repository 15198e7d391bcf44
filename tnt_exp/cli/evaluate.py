"""`tnt-exp evaluate`: measure a finished run's model, on its own test images or on others."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tnt_exp.atomic_files import JsonObject, atomic_write_json
from tnt_exp.cli import ArgumentParser
from tnt_exp.data import Split
from tnt_exp.errors import UserError, describe_system_error
from tnt_exp.evaluation import Evaluation, evaluate
from tnt_exp.finished_runs import test_images
from tnt_exp.finished_runs.find import RUN_HELP, FinishedRun, find_run, load_for_evaluation
from tnt_exp.formatting import format_table
from tnt_exp.training import device

_MISTAKES = 32
_WORST = 20  # classes shown in the terminal; the file has all of them


def main(arguments: Sequence[str]) -> int:
    """Evaluate, write `evaluation/` in the run folder, log to MLflow, and return the exit code."""
    parser = ArgumentParser(prog="tnt-exp evaluate", description="Measure a finished run's model.")
    parser.add_argument("run", help=RUN_HELP)
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="other images with the same classes: dataset=... dataset.path=...",
    )
    parser.add_argument("--uri", help="tracking store to ask for a run (default: mlflow.db in this folder)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(list(arguments))
    finished = find_run(options.run, options.uri)
    for text in options.overrides:
        if "=" not in text and Path(text).expanduser().exists():
            raise UserError(f"{text}: expected KEY=VALUE, received a path. Write dataset.path={text}")
    config, own = test_images.configure(finished, options.overrides)
    device.check_backend(config.trainer)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    chosen = test_images.read_images(finished, config, own=own)
    split = chosen.split
    trainer, flip = config.trainer, config.flips_test_images
    evaluation = evaluate(load_for_evaluation(finished, trainer), split, trainer.batch_size, flip=flip)
    label = "" if own else test_images.evaluation_label(finished, config)
    report = _report(finished, chosen, evaluation, f"eval/{label}" if label else "eval")
    report |= {"path": config.dataset.path, "notes": list(chosen.notes), "test_time_flip": flip}
    folder = finished.output / (f"evaluation_{label}" if label else "evaluation")
    written = _write(folder, finished, split, evaluation, report)
    logged = False
    if written and (run_id := finished.mlflow_run_id):
        from tnt_exp.tracking.queries import log_evaluation, run_store

        logged = log_evaluation(options.uri or run_store(finished.path), run_id, report["metrics"], folder)
    if options.json:
        print(json.dumps(report, indent=2))
        return 0
    _print(report, finished if own and not chosen.notes else None)
    if written:
        print(f"written to {folder}" + (f" and to MLflow run {finished.mlflow_run_id}" if logged else ""))
    return 0


def _report(finished: FinishedRun, chosen: test_images.TestImages, evaluation: Evaluation, prefix: str) -> JsonObject:
    counts, answers, f1 = evaluation.class_counts, evaluation.confusion.sum(axis=0), evaluation.class_f1
    classes = [
        {
            "class": name,
            "images": int(counts[number]),
            "accuracy": float(accuracy) if counts[number] else None,
            "precision": float(evaluation.confusion[number, number] / answers[number]) if answers[number] else None,
            "f1": None if np.isnan(f1[number]) else float(f1[number]),
        }
        for number, (name, accuracy) in enumerate(zip(finished.class_names, evaluation.class_accuracy, strict=True))
    ]
    return {
        "run": str(finished.path),
        "dataset": chosen.name,
        "dataset_digest": chosen.digest,
        "images": len(chosen.split),
        "metrics": {**dict(evaluation.metrics(prefix)), f"{prefix}/calibration_error": evaluation.calibration_error()},
        "classes": classes,
    }


def _write(folder: Path, finished: FinishedRun, split: Split, evaluation: Evaluation, report: JsonObject) -> bool:
    """Write `evaluation.json` and figures; if that fails, warn and return False."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_json(folder / "evaluation.json", report)
        _draw(folder, finished, split, evaluation, report)
    except OSError as error:
        print(f"tnt-exp: nothing is written to {folder}: {describe_system_error(error) or error}", file=sys.stderr)
        return False
    return True


def _draw(folder: Path, finished: FinishedRun, split: Split, evaluation: Evaluation, report: JsonObject) -> None:
    from tnt_exp.reports import run_figures

    names = finished.class_names
    images = Path(report["path"]).name if report["dataset"] == "image_folder" else report["dataset"]
    title = f"{images}: accuracy of {len(split):,} test images {evaluation.accuracy:.4f}"
    run_figures.draw_confusion_matrix(evaluation.confusion, names, title, folder / "confusion_matrix.png")
    wrong = evaluation.mistakes(_MISTAKES)
    if len(wrong):
        titles = [
            f"is {names[split.labels[index]]}\n"
            f"predicted {evaluation.confidence[index]:.0%} {names[evaluation.predicted[index]]}"
            for index in wrong
        ]
        run_figures.draw_samples(split.images[wrong].astype(np.float32) / 255, titles, folder / "mistakes.png")


def _print(report: JsonObject, own: FinishedRun | None) -> None:
    print(f"{report['dataset']}: {report['images']:,} test images")
    for note in report["notes"]:
        print(f"  note: {note}")
    reported = own.result["metrics"] if own else {}
    for name, value in report["metrics"].items():
        key = name.rpartition("/")[2]
        before = reported.get(f"test/{key}")
        note = "" if before is None else " as training reported" if before == value else f" training reported {before}"
        print(f"  {key:<18}{value:.6f} {note}".rstrip())
    known = sorted((row for row in report["classes"] if row["images"]), key=lambda row: row["accuracy"])
    rows = [
        [
            row["class"],
            str(row["images"]),
            f"{row['accuracy']:.4f}",
            "" if row["precision"] is None else f"{row['precision']:.4f}",
            f"{row['f1']:.4f}",
        ]
        for row in known[:_WORST]
    ]
    print()
    print(format_table(["class (worst first)", "images", "recall", "precision", "F1"], rows, [1, 2, 3, 4]))
    if len(known) > _WORST:
        print(f"... and {len(known) - _WORST} more in evaluation.json")
