"""A run folder without training, and its MLflow run."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from tnt_exp.run_folder import RunFolder
from tnt_exp.tracking.mirror import Mirror
from tnt_exp.tracking.tracker import Tracker


class FakeFolder:
    """Writes what a run writes: curve, result, a figure."""

    def __init__(self, path: Path, config: dict[str, Any] | None = None, dataset: bool = False) -> None:
        self.path, self.dataset = path, dataset
        self.config = config or {"model": {"depth": 3}}
        self.clear()

    def clear(self) -> None:
        """As a new run finds it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.folder = RunFolder(self.path)
        self.configure(**self.config)
        if self.dataset:
            split = {"digest": "d", "name": "digits", "source": "digits", "shape": [8, 8, 1]}
            (self.path / "dataset.json").write_text(json.dumps({**split, "images": {"train": 9, "test": 3}}))

    def configure(self, **sections: Any) -> None:
        (self.path / "config.yaml").write_text(yaml.safe_dump({**sections, "seed": 0}, sort_keys=False))

    def begin(self, uri: str, experiment: str = "fake", name: str | None = None, **tags: str) -> str:
        """Resume or create the MLflow run; return its id. As `Tracker.open` without its thread."""
        self.mirror = Mirror(self.path)
        self.mirror.begin(uri, experiment, name or self.path.name, {"run_folder": str(self.path), **tags})
        self.unset_result()
        return str(self.mirror.reference["run_id"])

    def track(self, uri: str) -> Tracker:
        self.result: dict[str, Any] = {}
        return Tracker.open(self.path, uri, "fake", self.path.name, {}, self.result)

    def record(self, first: int, last: int, scale: float = 1.0) -> None:
        """Append the epochs from the first to the last."""
        for epoch in range(first, last + 1):
            row = {"epoch": epoch, "train/loss": scale / epoch, "val/accuracy": scale * epoch / 100}
            self.folder.append_metrics({**row, "time": time.time()})

    def rewrite(self, last: int, scale: float = 1.0) -> None:
        """As a run that is resumed, or rolled back, to the end of an epoch."""
        (self.path / "metrics.csv").unlink(missing_ok=True)
        self.record(1, last, scale)

    def unset_result(self) -> None:
        self.folder.remove_result()

    def finish(self, status: str = "FINISHED", epoch: int = 5, **facts: Any) -> None:
        (self.path / "plots/plot.txt").write_text("a plot")
        result: dict[str, Any] = {"status": status, "metrics": {}, **facts}
        if hasattr(self, "mirror"):
            result["mlflow_run_id"] = self.mirror.reference["run_id"]
        if hasattr(self, "result"):
            result |= {"mlflow_run_id": self.result["mlflow_run_id"]}
        if status == "FINISHED":
            result |= {"epoch": epoch, "metrics": {"val/accuracy": epoch / 100, "test/accuracy": 0.5}}
        if hasattr(self, "result"):
            self.result |= result
        self.folder.write_result(result)

    def sync(self) -> Exception | None:
        return self.mirror.sync()
