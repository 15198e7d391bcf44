"""What MLflow should hold of a run or of a sweep: derived from the files of its folder."""

import itertools
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from tnt_exp.atomic_files import JsonObject, atomic_write, atomic_write_json, read_json
from tnt_exp.config.compose import YAML_LOADER
from tnt_exp.run_folder import ARTIFACTS, SYSTEM_METRICS, flatten, parse_number, read_metrics
from tnt_exp.tracking.pages import describe_run

FOLDER = "mlflow"  # in the folder of a run or sweep
REFERENCE = "mlflow.json"
PARENT = f"{FOLDER}/parent.json"  # of a sweep: status, end time, metrics and tags of its parent run
MODEL = f"{FOLDER}/model"  # the packaged model, until MLflow has it
FILES = f"{FOLDER}/files"  # what the parent run of a sweep logs
CURSOR = f"{FOLDER}/delivered.json"
_OLDER = f"{FOLDER}/messages.jsonl"  # written by older versions

RECALL = "test/recall/"  # and the class
_MAX_CLASSES = 100  # whose recall is logged as metrics; the artifact result.json has that of all
NOTE = "mlflow.note.content"  # tag that holds the description of a run
# Numbers of the result, and their names in MLflow, where a plain `parameters` is taken for the parameters of a run.
FACTS = {"parameters": "model_parameters", "macs": "macs"}
FACTS |= {key: key for key in ("train_seconds", "total_seconds", "images_per_second")}
_MAX_LENGTH = {"params": 6000, "tags": 8000}  # MLflow's limits, characters


class Point(NamedTuple):
    """One value of one metric; the time is in milliseconds."""

    key: str
    value: float
    time: int
    step: int


def read_reference(folder: Path) -> JsonObject:
    """Return `mlflow.json`; empty if the folder was never tracked."""
    return read_json(folder / REFERENCE) or {}


def is_tracked(folder: Path) -> bool:
    """Return True if the folder has, or had in an older version, an MLflow run."""
    return (folder / REFERENCE).exists() or (folder / _OLDER).exists()


def read_record(folder: Path, reference: JsonObject, result: JsonObject | None = None) -> JsonObject:
    """Return what MLflow should hold of a folder, of a run or of a sweep.

    The parts are in the order in which they are sent, each JSON: `points` (of all metrics but the system's), `params`,
    `tags`, `datasets` (content of `dataset.json`), `files` (path below the folder, artifact folder, and size and time
    of each file), `texts` (values too long for MLflow, by artifact), `model` (epoch and registered name) and `status`
    (with the time of the end, milliseconds). `reference` is the content of `mlflow.json`; `result` is given for a run
    that has not written `result.json`.
    """
    parent, config_file, written = read_json(folder / PARENT) or {}, folder / "config.yaml", folder / "result.json"
    result = result or read_json(written) or {"status": parent.get("status", "RUNNING")}
    config = read_params(folder) if config_file.exists() else {}
    ended, end_time, model = result["status"] != "RUNNING", parent.get("end_time"), None
    names = [f"{FILES}/{file.name}" for file in sorted((folder / FILES).glob("*"))]
    if ended and config:
        names += [name for name in ARTIFACTS if (folder / name).exists()]
        end_time = int(1000 * written.stat().st_mtime) if written.exists() else None
        if result["status"] == "FINISHED" and config.get("tracking.log_model") and (folder / "model.keras").exists():
            model = {"step": result.get("epoch", 0), "register": config.get("tracking.register")}
    described, texts = read_json(folder / "dataset.json") or {}, dict[str, str]()
    return {
        "points": list(_points(folder, int(reference.get("start_time") or 0), result, parent)),
        "params": _short("params", config, texts),
        "tags": _short("tags", {**_tags(folder, reference, result, config), **parent.get("tags", {})}, texts),
        "datasets": {
            key: described[key] for key in ("name", "source", "shape", "digest", "images") if key in described
        },
        "files": [_describe(folder, name) for name in names],
        "texts": texts,
        "model": model,
        "status": [result["status"], end_time],
    }


def read_params(folder: Path) -> JsonObject:
    """Return the values of `config.yaml` with dotted keys; raise `ValueError` if it was cut: `seed` is the end."""
    file = folder / "config.yaml"
    with suppress(yaml.YAMLError, UnicodeDecodeError):
        values = yaml.load(file.read_text("utf-8"), Loader=YAML_LOADER)
        if isinstance(values, dict) and "seed" in values:
            return flatten(values)
    raise ValueError(f"{file}: expected the configuration of a run, received a damaged file.")


def read_final_metrics(folder: Path, result: JsonObject) -> dict[str, float]:
    """Return what MLflow shows as the value of each metric, the last of a curve; without those of the system.

    `result` is the content of `result.json`; empty while the run is in progress.
    """
    points = _points(folder, 0, {"status": "RUNNING", **result}, {}, last=True)
    kept = {"best_epoch": float(result["epoch"])} if result.get("epoch") else {}  # a tag in MLflow
    return {**{point.key: point.value for point in points}, **kept}


def _points(folder: Path, begin: int, result: JsonObject, parent: JsonObject, *, last: bool = False) -> Iterator[Point]:
    time = begin
    rows = read_metrics(folder, last=last).rows
    for row in rows:
        # A row of an older version has no time of its own.
        time = int(1000 * float(row["time"])) if "time" in row else time + int(1000 * float(row.get("seconds") or 0))
        # MLflow's page that compares runs begins with the metric that was logged first.
        for key, text in sorted(row.items(), key=lambda cell: cell[0] != "val/accuracy"):
            value = parse_number(text) if key not in ("epoch", "step", "seconds", "time") else None
            if value is not None:
                yield Point(key, value, time, int(float(row["epoch"])))
    finished = result["status"] == "FINISHED"  # other facts change when a run continues
    facts = list(FACTS.items())[: None if finished else 2]
    if rows or result["status"] != "RUNNING":
        yield from (Point(name, float(result[key]), begin, 0) for key, name in facts if key in result)
    yield from (Point(key, value, time, 0) for key, (value, time) in parent.get("metrics", {}).items())
    if result["status"] != "RUNNING" and "metrics" in result:
        for key, value in {**result["metrics"], **_class_recall(result)}.items():
            if not key.startswith("train/"):  # these are in the curve, at the epoch that the tag `best_epoch` names
                # At step 0, where MLflow draws bars: it draws a curve of one point at any other step.
                yield Point(key if key.startswith("test/") else f"best/{key}", float(value), time, 0)


def _class_recall(result: JsonObject) -> dict[str, float]:
    """Return `test/recall/CLASS` of the classes with test images, if they are few; MLflow allows 250 characters."""
    found = result.get("class_accuracy", {})
    names = {name: re.sub(r"^(\.+|$)|[^\w.\- ]", "_", name)[:200] for name in found if len(found) <= _MAX_CLASSES}
    taken = {name for name, to in names.items() if name == to}
    for name, to in names.items():
        if name != to:
            numbered = (f"{to}_{number}" for number in itertools.count(2))
            names[name] = next(each for each in itertools.chain([to], numbered) if each not in taken)
            taken.add(names[name])
    return {f"{RECALL}{to}": found[name] for name, to in names.items() if found[name] is not None}


def _tags(folder: Path, reference: JsonObject, result: JsonObject, config: JsonObject) -> JsonObject:
    tags = {**reference.get("tags", {}), "run_folder": folder}
    if parent := tags.get("sweep_id") and read_reference(folder.parent).get("run_id"):
        tags["mlflow.parentRunId"] = parent
    if config and result["status"] != "RUNNING":
        ranks = (read_json(folder.parent / PARENT, skip=True) or {}).get("ranks", {}) if parent else {}
        description = describe_run(folder, result, config.get("trainer.epochs"))
        tags[NOTE] = " ".join([description, *ranks.get(folder.name, [])])
        tags |= {"best_epoch": result["epoch"]} if result.get("epoch") else {}
    if "hardware" in result:
        tags["hardware"] = result["hardware"]["name"]
    if "cause" in result:
        tags["cause"] = result["cause"]
    if result.get("error"):
        tags["error"] = ": ".join(result[key] for key in ("cause", "error") if key in result)
    return tags


def _short(kind: str, values: JsonObject, texts: dict[str, str]) -> dict[str, str]:
    """Return values as MLflow takes them; one that is too long becomes an artifact."""
    short = {key: str(value) for key, value in values.items()}
    for key, text in short.items():
        if len(text) > _MAX_LENGTH[kind]:
            texts[f"{kind}/{key}.txt"] = text
            short[key] = f"too long: artifact {kind}/{key}.txt"
    return short


def _describe(folder: Path, name: str) -> list[object]:
    path = folder / name
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.name != "train.log"]
    return [name, path.name if path.is_dir() else None, stats]  # the log grows whenever the command is repeated


def read_system_metrics(folder: Path, start: int) -> Iterator[tuple[int, list[Point]]]:
    """Yield the points of each line of `system_metrics.jsonl` from a byte on, and where the line ends, in bytes."""
    file = folder / SYSTEM_METRICS
    if not file.exists():
        return
    with file.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):  # it is being written
                return
            start, rows = start + len(line), _json(line)
            yield start, [Point(key, v, row["time"], row["step"]) for row in rows for key, v in row["values"].items()]


def _json(line: bytes) -> list[JsonObject]:
    """Return the object in a line; nothing if a kill or a full disk cut it."""
    try:
        return [json.loads(line)]
    except ValueError:
        return []


def convert_older(folder: Path) -> None:
    """Turn the messages of an older version into `mlflow.json` and `system_metrics.jsonl`."""
    file, reference, status, system = folder / _OLDER, read_reference(folder), JsonObject(), list[str]()
    if not file.exists():
        return
    tags = reference.setdefault("tags", {})
    for message in (message for line in file.read_bytes().splitlines() for message in _json(line)):
        match message["kind"]:
            case "begin" | "run":
                reference |= {key: message[key] for key in ("uri", "run_id", "experiment_id") if key in message}
            case "tags":
                tags |= message["values"]
            case "metrics" if any(key.startswith("system/") for key in message["values"]):
                system.append(json.dumps(message) + "\n")
            case "status":
                status = {"status": message["status"], "end_time": message.get("time")}
    if not (folder / "config.yaml").exists():  # a sweep
        atomic_write_json(folder / PARENT, status)
    atomic_write(folder / SYSTEM_METRICS, "".join(system))
    atomic_write_json(folder / REFERENCE, reference)
    (folder / CURSOR).unlink(missing_ok=True)
    file.unlink()
