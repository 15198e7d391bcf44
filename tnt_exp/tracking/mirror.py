"""Makes the MLflow run of a folder equal to the folder: `Mirror.sync`, idempotent, resumable, one writer at a time."""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tnt_exp.atomic_files import JsonObject, atomic_write_json, read_json
from tnt_exp.errors import first_line
from tnt_exp.tracking import models
from tnt_exp.tracking.client import is_permanent_error, store_exists
from tnt_exp.tracking.folder_run import FolderRun, now_ms
from tnt_exp.tracking.record import CURSOR, MODEL, NOTE, Point, read_record, read_reference, read_system_metrics

log = logging.getLogger("tnt_exp")

_COMPARED = ("train/", "val/", "test/", "best/")  # metrics that only this package logs
_SINGLE = ("test/", "best/")  # have one value, at step 0; older versions logged it at the kept epoch
_LARGE = ("files", "texts", "model")  # go to the artifact store, which may be unreachable while the store is not


class Mirror(FolderRun):
    """Makes the MLflow run of a folder equal to the folder; `sent` is how many values and parts were sent.

    With `packages`, a model that MLflow lacks is packaged from `model.keras`, which takes many seconds.
    """

    def __init__(self, folder: Path, *, packages: bool = False) -> None:
        super().__init__(folder)
        self._packages, self.sent = packages, 0
        self._cursor: JsonObject = {}
        self._history: dict[tuple[str, int], list[float]] = {}  # what MLflow has, by key and step

    def sync(self, result: JsonObject | None = None, *, trust_cursor: bool = False) -> Exception | None:
        """Send what MLflow lacks; return the error that stopped it, or None if MLflow has everything.

        `result` is the result so far, of a run that has not written `result.json`. With `trust_cursor` the store is not
        asked if nothing is pending.
        """
        try:
            if trust_cursor and not self.pending(result):
                return None
            with self._locked():
                if not (self._opened and store_exists(self.client.tracking_uri)):
                    self._open(revive=False)
                    self._cursor = {}
                return None if self.deleted else self._send(result)
        except Exception as error:  # whatever the store or the disk does, training continues
            self._opened = False  # the next attempt looks at what MLflow has
            return error

    def pending(self, result: JsonObject | None = None) -> list[str]:
        """Return the parts that MLflow lacks, according to the cursor."""
        self.reference = read_reference(self.folder)
        self._read_cursor()
        system = ["system"] * any(read_system_metrics(self.folder, self._cursor.get("system", 0)))
        return self._changed(read_record(self.folder, self.reference, result)) + system

    @property
    def refused(self) -> int:
        """How much the store has refused for good."""
        return int(self._cursor.get("refused", 0))

    def _send(self, result: JsonObject | None) -> Exception | None:
        """Send the parts of the record that differ from the cursor; return the error of the artifact store, or None."""
        if self._cursor.get("run_id") != self.reference["run_id"]:
            self._read_cursor()
            self._history = self._read_history()
        self._name_run_in_result()
        record, failed = read_record(self.folder, self.reference, result), None
        if not self._is_consistent(record):
            self._replace()
            return self._send(result)
        for name in self._changed(record):
            try:
                if (name in _LARGE and failed) or not self._send_part(name, record):
                    continue
            except Exception as error:
                if is_permanent_error(error):
                    self._refuse(name, error)
                elif name in _LARGE:
                    failed = error
                    continue
                else:
                    raise
            self.sent += 1
            self._save_cursor(parts={**self._cursor.get("parts", {}), name: _digest(record[name])})
        # Not before the first epoch: MLflow's page that compares runs begins with the metric that was logged first.
        lines = list(read_system_metrics(self.folder, self._cursor.get("system", 0))) if record["points"] else []
        for some in (lines[first : first + 40] for first in range(0, len(lines), 40)):
            self._log([point for _, points in some for point in points])
            self._save_cursor(system=some[-1][0])
        for old in list(self.reference.get("replaces", [])):
            try:
                self.client.delete_run(old)
            except MlflowException as error:
                if not is_permanent_error(error):  # else it is gone
                    raise
            self.reference["replaces"].remove(old)
            self._save_reference()
        return failed

    def _is_consistent(self, record: JsonObject) -> bool:
        """Return False if MLflow has points that are not in the record of a run.

        Later epochs do not count before the run has ended: they are repeated.
        """
        wanted, running = {(p.key, p.step): p.value for p in record["points"]}, record["status"][0] == "RUNNING"
        keys, last = {key for key, _ in wanted}, max((step for _, step in wanted), default=0)
        for (key, step), values in self._history.items() if record["params"] else ():
            step = 0 if key.startswith(_SINGLE) else step
            if (key, step) in wanted:
                if not all(is_same_value(wanted[key, step], value) for value in values):
                    return False
            elif not running or (key in keys and step <= last):
                return False
        return True

    def _read_history(self) -> dict[tuple[str, int], list[float]]:
        """Return what MLflow has of the metrics that are compared, by key and step."""
        run_id, found = self.reference["run_id"], dict[tuple[str, int], list[float]]()
        for key in self.client.get_run(run_id).data.metrics:
            for metric in self.client.get_metric_history(run_id, key) if key.startswith(_COMPARED) else []:
                found.setdefault((key, metric.step), []).append(metric.value)
        return found

    def _send_part(self, name: str, record: JsonObject) -> bool:
        """Send a part of the record; return False if it cannot be sent here."""
        client, run_id, part = self.client, self.reference["run_id"], record[name]
        match name:
            case "points":
                there = self._history
                missing = [
                    p for p in part if not any(is_same_value(p.value, v) for v in there.get((p.key, p.step), []))
                ]
                self._log(missing)
                there |= {(point.key, point.step): [point.value] for point in missing}
            case "params":
                self._log(params=[Param(key, value) for key, value in part.items()])
            case "tags":
                there, sent = client.get_run(run_id).data.tags, self._cursor.get("note")
                theirs = [NOTE] if there.get(NOTE) not in (None, sent, part.get(NOTE)) else []  # a user wrote it
                self._log(tags=[RunTag(key, value) for key, value in part.items() if key not in theirs])
                self._save_cursor(note=sent if theirs else part.get(NOTE))
                for key in {"cause", "error", "best_epoch", NOTE} & (there.keys() - part.keys() - {*theirs}):
                    client.delete_tag(run_id, key)
            case "datasets" if "shape" in part:  # an older version did not write it
                client.log_inputs(run_id, list(_dataset_inputs(part)))
            case "files":
                for path, to, _ in part:
                    (client.log_artifacts if to else client.log_artifact)(run_id, str(self.folder / path), to)
            case "texts":
                for path, text in part.items():
                    client.log_text(run_id, text, path)
            case "model":
                return self._send_model(part, record)
            case "status" if part[0] == "RUNNING":
                client.update_run(run_id, "RUNNING")
            case "status":
                client.set_terminated(run_id, part[0], max(part[1] or now_ms(), self.reference.get("start_time", 0)))
        return True

    def _send_model(self, model: JsonObject, record: JsonObject) -> bool:
        """Log the model, and register it if asked to; return False if it is not packaged and cannot be here."""
        client, run_id, package = self.client, self.reference["run_id"], self.folder / MODEL
        try:
            model_id = models.log_model(client, run_id, package, model["step"])
        except FileNotFoundError:
            if not self._packages:
                return False
            models.package_run(self.folder, package)
            model_id = models.log_model(client, run_id, package, model["step"])
        # The figures of the kept epoch belong to the model, too, each with the images that it was measured on.
        described, figures = record["datasets"], list[Metric]()
        for point in (point for point in record["points"] if point.key.startswith(_SINGLE)):
            split = "test" if point.key.startswith("test/") else "validation"
            on = _dataset_of(described, split) if split in described.get("images", {}) else {}
            figures.append(Metric(*point, model_id=model_id, run_id=run_id, **on))
        client.log_batch(run_id, figures)
        if model["register"]:
            metrics = (read_json(self.folder / "result.json") or {})["metrics"]
            models.register(client, run_id, model_id, model["register"], metrics)
        shutil.rmtree(package, ignore_errors=True)
        return True

    def _log(self, points: Sequence[Point] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()) -> None:
        """Send a batch; if the store refuses it, send each value alone to find those that it refuses."""
        try:
            self.client.log_batch(self.reference["run_id"], [Metric(*point) for point in points], params, tags)
            self.sent += len(points)
        except MlflowException as error:
            if not is_permanent_error(error):
                raise
            if len(points) + len(params) + len(tags) == 1:
                self._refuse(str([*points, *params, *tags][0]), error)
                return
            for kind, values in (("points", points), ("params", params), ("tags", tags)):
                for value in values:
                    self._log(**{kind: [value]})

    def _refuse(self, what: str, error: Exception) -> None:
        """Report and count what the store refuses for good, unless the reason is that the run was deleted meanwhile."""
        run = self.find_run()
        if run is None or run.info.lifecycle_stage != "active":
            raise ConnectionError("the run was deleted in MLflow meanwhile") from error
        self._save_cursor(refused=self.refused + 1)
        log.warning("MLflow refuses %s: %s", what, first_line(error))

    def _name_run_in_result(self) -> None:
        """Write the run into `result.json`, if that names none, or one that was replaced."""
        file, run_id = self.folder / "result.json", self.reference["run_id"]
        result = read_json(file) or {}
        if result and result.get("mlflow_run_id") != run_id:
            written = file.stat()
            atomic_write_json(file, {**result, "mlflow_run_id": run_id})
            os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))  # it says when the run ended

    def _changed(self, record: JsonObject) -> list[str]:
        """Return the parts that are not empty and differ from the cursor."""
        parts = self._cursor.get("parts", {})
        return [name for name, part in record.items() if part and parts.get(name) != _digest(part)]

    def _read_cursor(self) -> None:
        """Read what was sent to the run; nothing if that is unknown."""
        self._cursor = {"run_id": self.reference.get("run_id")}
        with suppress(OSError, ValueError):
            cursor = json.loads((self.folder / CURSOR).read_text())
            if isinstance(cursor, dict) and cursor.get("run_id") == self._cursor["run_id"]:
                self._cursor = cursor

    def _save_cursor(self, **values: object) -> None:
        self._cursor |= values
        with suppress(OSError):  # on a full disk; it is not flushed, because an older cursor does no harm
            beside = self.folder / f"{CURSOR}.part"
            beside.write_text(json.dumps(self._cursor))
            beside.replace(self.folder / CURSOR)


def _digest(part: object) -> str:
    return hashlib.sha256(json.dumps(part).encode()).hexdigest()[:16]


def is_same_value(value: float, other: float) -> bool:
    """Compare a value with what a store keeps of it: infinity as the largest number, and maybe without the last bit."""
    value, other = (min(max(each, -1.7976931348623157e308), 1.7976931348623157e308) for each in (value, other))
    return math.isclose(value, other, rel_tol=1e-12) or (math.isnan(value) and math.isnan(other))


def _dataset_of(described: JsonObject, split: str) -> dict[str, str]:
    """Return name and digest of a split: MLflow takes two splits with one digest for one dataset."""
    return {"dataset_name": described["name"], "dataset_digest": f"{described['digest']}-{split}"}


def _dataset_inputs(described: JsonObject) -> Iterator[DatasetInput]:
    """Yield the splits as MLflow datasets: type, shape and digest, not the images."""
    from mlflow.data.code_dataset_source import CodeDatasetSource

    for split, count in described["images"].items():
        name = _dataset_of(described, split)
        dataset = mlflow.data.from_numpy(
            np.broadcast_to(np.uint8(0), (count, *described["shape"])),
            CodeDatasetSource({"source": described["source"]}),
            targets=np.broadcast_to(np.int64(0), (count,)),
            name=name["dataset_name"],
            digest=name["dataset_digest"],
        )
        yield DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", split)])
