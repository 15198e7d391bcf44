"""The MLflow run of a folder: created, found again, replaced; `mlflow.json` names it."""

import errno
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tnt_exp.atomic_files import JsonObject, acquire_lock, atomic_write_json, is_here, release_lock
from tnt_exp.errors import UserError, first_line, is_disk_full
from tnt_exp.tracking import client
from tnt_exp.tracking.pages import configure_experiment
from tnt_exp.tracking.record import FOLDER, REFERENCE, convert_older, read_record, read_reference

log = logging.getLogger("tnt_exp")

_LOCK_WAIT = 60.0  # seconds that the begin of a run waits for another process that sends


def now_ms() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return int(time.time() * 1000)


class FolderRun:
    """The MLflow run of a folder, of a run or of a sweep; `Mirror` sends it the record."""

    client: mlflow.MlflowClient  # of the store, once it was opened

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference: JsonObject = {}  # the content of `mlflow.json`
        self.deleted = False  # whether the run was deleted in MLflow; nothing is sent then
        self._opened = False

    def begin(self, uri: str, experiment: str, name: str, tags: Mapping[str, str]) -> None:
        """Resume the MLflow run of the folder, or create one.

        An existing run, and the trial of a sweep that has its run, continue even if the store does not answer.

        Raises:
            UserError: The store of a new run cannot be reached, or the experiment was deleted.
            OSError: There is no space left for a new run.
        """
        with self._locked(_LOCK_WAIT):
            before = self.reference.get("uri", "")
            moved = before != uri and client.relocated_uri(before, self.folder) != uri
            if self._is_copy(self.reference.get("tags", {})):
                self._forget_run()
            elif moved:  # a store that had the run before has it again, by its start time
                self.reference |= {"run_id": None, "replaces": []}
            self.reference |= {"uri": uri, "experiment": experiment, "name": name, "tags": dict(tags)}
            self._save_reference()
            try:
                client.retry_while_locked(lambda: self._open(revive=True))
            except (MlflowException, OSError, client.StoreUnavailableError) as error:
                if not self.reference.get("run_id"):
                    if is_disk_full(error):
                        raise OSError(errno.ENOSPC, first_line(error)) from error
                    sweep = read_reference(self.folder.parent)
                    if sweep.get("run_id") and sweep.get("uri") == uri:  # a trial: the store has answered before
                        return
                    reason = first_line(error).removeprefix(f"{uri}: expected a tracking store, received: ")
                    raise UserError(
                        f"tracking.uri: expected a tracking store, received {uri}: {reason} "
                        "(tracking=off trains without it)."
                    ) from error

    def _open(self, *, revive: bool) -> None:
        """Connect, and make sure that `mlflow.json` names a run that can hold the record.

        A new SQLite store, and a run that was deleted in MLflow, are created only if the run is to be revived.
        """
        if revive:
            client.init_sqlite_store(self.reference["uri"])
        uri = client.relocated_uri(self.reference["uri"], self.folder)
        if uri is None:
            raise FileNotFoundError(f"no tracking store at {self.reference['uri']}")
        self.client = client.make_client(uri)
        run = self.find_run()
        self.deleted = run is not None and run.info.lifecycle_stage != "active" and not revive
        if self.deleted:
            return
        if run is not None and self._is_copy(run.data.tags):
            self._forget_run()
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            run = self._create()
        params = read_record(self.folder, self.reference)["params"]
        if any(run.data.params.get(key, value) != value for key, value in params.items()):
            self._replace()
        self.reference.setdefault("experiment_id", run.info.experiment_id)  # an older version did not record it
        configure_experiment(
            self.client, self.reference["experiment_id"], str(self.reference.get("tags", {}).get("swept", "")).split()
        )
        self._opened = True

    def find_run(self) -> Run | None:
        """Return the run, deleted or not; None: there is none, or the store does not know it."""
        try:
            return self.client.get_run(self.reference["run_id"]) if self.reference.get("run_id") else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _create(self) -> Run:
        """Create the run, unless an interrupted start has: it has the tag and the start time that are noted before."""
        reference, replaced = self.reference, self.reference.get("replaces", [])
        reference |= {"run_id": None, "start_time": reference.get("start_time", now_ms())}
        self._save_reference()
        start, record = reference["start_time"], read_record(self.folder, reference)
        name = reference.get("experiment") or record["params"].get("tracking.experiment", "tnt")
        experiment_id = client.get_or_create_experiment(self.client, name)
        condition = f"tags.run_folder = {client.quote_filter_value(record['tags']['run_folder'])}"
        found = self.client.search_runs([experiment_id], f"{condition} and attributes.start_time = {start}")
        run = next((run for run in found if run.info.run_id not in replaced), None) or self.client.create_run(
            experiment_id, start, record["tags"], reference.get("name", self.folder.name)
        )
        reference |= {"run_id": run.info.run_id, "experiment_id": experiment_id}
        self._save_reference()
        return run

    def _replace(self) -> None:
        """Let a fresh run take the place of one whose points or parameters differ, which is deleted at the end."""
        old = self.reference["run_id"]
        self.reference["replaces"] = [*self.reference.get("replaces", []), old]
        new = self._create().info.run_id
        log.info("MLflow run %s replaces %s: parameters or points of the run have changed since", new, old)

    def _forget_run(self) -> None:
        """The folder has no MLflow run: it is a copy."""
        self.reference |= {"run_id": None, "replaces": [], "start_time": now_ms()}

    def _is_copy(self, tags: Mapping[str, str]) -> bool:
        """Return True if the run belongs to another folder that still exists."""
        owner, run_id = Path(tags.get("run_folder", self.folder)), self.reference.get("run_id")
        other = bool(run_id) and is_here(owner) and not owner.samefile(self.folder)
        return other and bool(read_reference(owner).get("run_id") == run_id)

    @contextmanager
    def _locked(self, wait: float = 0.0) -> Iterator[None]:
        """Be the only writer, and read `mlflow.json`."""
        (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
        held = acquire_lock(self.folder / FOLDER / ".lock", wait)
        if held is None:
            raise UserError(f"{self.folder}: another process sends it to MLflow. Wait until that ends.")
        try:
            convert_older(self.folder)
            self.reference = read_reference(self.folder)
            yield
        finally:
            release_lock(held)

    def _save_reference(self) -> None:
        atomic_write_json(self.folder / REFERENCE, self.reference)
