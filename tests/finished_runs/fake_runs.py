"""Run folders as runs leave them, without training."""

import functools
import json
from pathlib import Path

import yaml

from tnt_exp.config.compose import compose
from tnt_exp.run_folder import plain

_COLUMNS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")


@functools.cache
def _tiny() -> str:
    return json.dumps(plain(compose(["model=tiny"])))


def write_run(
    folder: Path,
    *overrides: str,
    accuracy: float | None = 0.5,
    status: str = "FINISHED",
    second: int = 0,
    epochs: int = 3,
    **result: object,
) -> Path:
    """A run of the tiny model with some KEY=VALUE.

    Args:
        folder: Of the run.
        overrides: Keys of sections, and of the whole.
        accuracy: Of its kept last epoch, and of its test; None: it has not ended.
        status: How it ended.
        second: When it began.
        epochs: Rows of `metrics.csv`.
        result: Further values of `result.json`.
    """
    config = json.loads(_tiny())
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, name = key.rpartition(".")
        (config[section] if section else config)[name] = yaml.safe_load(value)
    (folder / "provenance").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False))
    (folder / "overrides.yaml").write_text("[]\n")
    start = {
        "times": [f"2026-05-01 12:{second // 60:02d}:{second % 60:02d}+0000"],
        "system": "Linux",
        "git_commit": "c",
    }
    (folder / "provenance/starts.json").write_text(json.dumps([{**start, "git_diff": None, "packages": {"a": "1"}}]))
    if accuracy is None:
        return folder
    rows = [
        [epoch, *(accuracy * (epoch / epochs) + (0.1 if name.endswith("loss") else 0) for name in _COLUMNS), epoch * 10]
        for epoch in range(1, epochs + 1)
    ]
    table = [["epoch", *_COLUMNS, "time"], *rows]
    (folder / "metrics.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in table))
    kept = {"val/accuracy": accuracy, "val/loss": 1 - accuracy, "test/accuracy": accuracy, "test/loss": 1 - accuracy}
    found = {"status": status, "metrics": kept, "epoch": epochs, "total_seconds": 9.5, "train_seconds": 8.0, **result}
    found |= {"versions": {"keras": "3.15.1"}, "hardware": {"name": "a processor"}, "parameters": 7, "macs": 8}
    (folder / "result.json").write_text(json.dumps(found))
    return folder
