"""The books of a sweep: one small file in its folder, replaced as a whole.

They hold what is to be run. What became of a point is in its own `result.json`, so nothing here can disagree with it.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml

from tnt_exp.config import Config, InputError
from tnt_exp.config.compose import load_config
from tnt_exp.durable import lock, read_json, write_json
from tnt_exp.run_folder import plain
from tnt_exp.sweep.costs import costs
from tnt_exp.sweep.point import Candidate, Point, State, hash_of, key_of, state_of

NAME = "sweep.json"


class Books:
    """A sweep folder.

    Args:
        folder: The folder.
        data: What `sweep.json` holds.

    Attributes:
        folder: The folder, absolute.
        points: In the order of their numbers.
    """

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.folder = folder.resolve()
        self.data = data
        self.points = [Point(**point) for point in data.get("points", [])]
        self._lock: IO[str] | None = None

    @classmethod
    def new(
        cls,
        folder: Path,
        *,
        command: Sequence[str],
        config_dir: str | None,
        search: dict[str, Any] | None,
        objective: str | None,
        direction: str,
    ) -> "Books":
        """Books of a sweep that begins.

        Args:
            folder: Made here.
            command: What followed `tnt-exp train -m`.
            config_dir: The user's own groups.
            search: What defines a search; None for a grid.
            objective: Metric that is compared; None: the default.
            direction: `maximize` or `minimize`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "command": list(command),
            "config_dir": str(Path(config_dir).resolve()) if config_dir else None,
            "cwd": str(Path.cwd()),
            "created": time.time(),
            "search": search,
            "objective": objective,
            "direction": direction,
            "mlflow": None,
            "ended": None,
            "points": [],
        }
        return cls(folder, data)

    @classmethod
    def open(cls, folder: Path) -> "Books":
        """Books of a sweep there is.

        Raises:
            InputError: The folder holds none.
        """
        data = read_json(folder / NAME)
        if data is None:
            raise InputError(f"{folder}: expected the folder of a sweep (it holds {NAME}), received another.")
        return cls(folder, data)

    @property
    def id(self) -> str:
        """The sweep's id, its folder's name."""
        return self.folder.name

    @property
    def maximize(self) -> bool:
        """Whether a larger objective is better."""
        return bool(self.data["direction"] == "maximize")

    def hold(self) -> None:
        """Be the only process that runs this sweep, until it ends.

        Raises:
            InputError: Another one does.
        """
        self._lock = lock(self.folder / ".lock")
        if self._lock is None:
            raise InputError(
                f"{self.folder}: expected a sweep that nobody runs, received one that is running. "
                f"See it with: tnt-exp sweep status {self.folder}"
            )

    def running(self) -> bool:
        """Whether some process runs this sweep now."""
        found = lock(self.folder / ".lock")
        if found is not None:
            found.close()
        return found is None

    def add(self, candidate: Candidate, config: Config, trial: int | None = None) -> Point:
        """A new point, its configuration frozen in its folder; `save` makes it part of the sweep."""
        job = len(self.points)
        cost = costs(config)
        work = cost.macs * config.trainer.epochs if cost else 0
        point = Point(job, list(candidate.overrides), dict(candidate.params), hash_of(config), trial, work)
        folder = self.folder_of(point)
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(plain(config), sort_keys=False))
        (folder / "overrides.yaml").write_text(yaml.safe_dump(point.overrides))
        self.points.append(point)
        return point

    def save(self) -> None:
        """Write the file."""
        self.data["points"] = [asdict(point) for point in self.points]
        write_json(self.folder / NAME, self.data)

    def end(self, *, ended: bool) -> None:
        """Say that everything was done, or that there is more to do."""
        self.data["ended"] = time.time() if ended else None
        self.save()

    def folder_of(self, point: Point) -> Path:
        """The point's run folder."""
        return self.folder / str(point.job)

    def config(self, point: Point) -> Config:
        """The point's frozen configuration."""
        return load_config(self.folder_of(point) / "config.yaml")

    def result(self, point: Point) -> dict[str, Any] | None:
        """The point's `result.json`, None where there is none."""
        found: dict[str, Any] | None = read_json(self.folder_of(point) / "result.json")
        return found

    def state(self, point: Point) -> State:
        """What became of the point."""
        return state_of(self.result(point))

    def keys(self) -> set[tuple[str, ...]]:
        """What its points are recognised by."""
        return {key_of(point.overrides) for point in self.points}


def all_sweeps(root: Path) -> list[Books]:
    """The sweeps in a folder, newest first."""
    if not root.is_dir():
        return []
    found = [Books.open(Path(entry.path)) for entry in os.scandir(root) if (Path(entry.path) / NAME).is_file()]
    return sorted(found, key=lambda books: float(books.data["created"]), reverse=True)
