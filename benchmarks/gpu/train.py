"""Stage `train`: CIFAR-100 recipes within a time budget, curves and checkpoints brought out.

A run that the budget ends is stopped by SIGTERM, which writes its checkpoint; the state goes into
`state_RECIPE.tar.NNN` beside the JSON, and a later call, on this machine or on another, continues from there.
"""

import csv
import io
import json
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.check import folder_of
from benchmarks.gpu.stage import Stage, end_group, last_line, open_process, python

PART_BYTES = 15 * 10**6
_ENDING = 30.0  # seconds that a run is given to write its checkpoint
# A processor is shown that the way works: few images, few epochs.
_SMALL = [
    *("dataset.train_limit=1000", "trainer.epochs=2", "schedule.warmup_epochs=0"),
    *("trainer.batch_size=50", "model.depth=1"),
]


def main(stage: Stage, recipes: list[str]) -> bool:
    """Run the stage; whether every recipe finished or was left in a state to continue from."""
    stage.start()
    archive = _cifar(stage.data)
    if archive is None:
        stage.add("data", status="failed", why="no CIFAR-100 archive (cifar-100*.tar*) in the folder of --data")
        return False
    backend, good = stage.backends[0], True
    for recipe in recipes:
        name = f"gpu_{recipe}_{backend}" + ("_small" if stage.small else "")
        budget = max(stage.left - _ENDING, 0) / (len(recipes) - recipes.index(recipe))
        if budget < 20:
            stage.add(recipe, status="left out", why="the stage's time limit; the same command continues with it")
            continue
        _restore(stage.output, recipe, folder_of(name))
        good &= _train(stage, recipe, name, backend, archive, budget)
    return good


def command(stage: Stage, recipe: str, name: str, backend: str, archive: Path) -> list[str]:
    """What is run."""
    given = [f"experiment={recipe}", f"run.name={name}", f"trainer.backend={backend}", f"dataset.path={archive}"]
    given += ["tracking=off", "trainer.checkpoint.keep=1", "trainer.checkpoint.every=1"]
    given += _SMALL if stage.small else ["trainer.precision=mixed_bfloat16"]
    return python("-m", "tnt_exp", "train", *given)


def _train(stage: Stage, recipe: str, name: str, backend: str, archive: Path, budget: float) -> bool:
    folder, typed = folder_of(name), command(stage, recipe, name, backend, archive)
    begin = time.monotonic()
    log = stage.output / f"{recipe}.log"
    with log.open("w") as output, open_process(typed, {}, stdout=output) as process:
        try:
            process.wait(timeout=budget)
        except subprocess.TimeoutExpired:
            end_group(process, signal.SIGTERM)
            try:
                process.wait(timeout=_ENDING)
            except subprocess.TimeoutExpired:
                end_group(process, signal.SIGKILL)
                process.wait()
    reason = last_line(log.read_text(errors="replace"))
    log.unlink()
    result = json.loads((folder / "result.json").read_text()) if (folder / "result.json").exists() else {}
    status = {0: "finished", 143: "stopped at the budget"}.get(process.returncode, "failed")
    earlier = stage.record["items"].get(recipe, {}).get("calls", [])
    stage.add(
        recipe,
        status=status,
        command=" ".join(["python", *typed[1:]]).replace(str(archive), archive.name),
        backend=backend,
        calls=[*earlier, {"seconds": round(time.monotonic() - begin, 1), "status": status}],
        **({"why": reason[:300]} if status == "failed" and reason else {}),
        **{key: result[key] for key in _RESULT if key in result},
        curve=_curve(folder / "metrics.csv"),
    )
    _bring_out(folder, stage.output, recipe, finished=status == "finished")
    return status != "failed"


_RESULT = (
    "metrics",
    "parameters",
    "macs",
    "epoch",
    "first_step_seconds",
    "train_seconds",
    "images_per_second",
    "hardware",
)


def _cifar(data: Path | None) -> Path | None:
    """The archive, as an absolute path: runs begin in another folder."""
    found = sorted(data.glob("cifar-100*")) if data else []
    return found[0].resolve() if found else None


def _curve(file: Path) -> list[dict[str, float]]:
    if not file.exists():
        return []
    with file.open() as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def _bring_out(folder: Path, output: Path, recipe: str, *, finished: bool) -> None:
    """Write what a run continues from, or its model, in parts beside the JSON."""
    for old in output.glob(f"state_{recipe}.tar.*"):
        old.unlink()
    if not folder.exists():
        return
    kept = [folder / name for name in ("config.yaml", "overrides.yaml", "metrics.csv", "result.json")]
    kept += [folder / "model.keras"] if finished else sorted((folder / "checkpoints").glob("*"))[-2:]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for file in kept:
            if file.exists():
                archive.add(file, str(file.relative_to(folder)))
    whole = stream.getvalue()
    for number, first in enumerate(range(0, len(whole), PART_BYTES), start=1):
        (output / f"state_{recipe}.tar.{number:03d}").write_bytes(whole[first : first + PART_BYTES])


def _restore(output: Path, recipe: str, folder: Path) -> None:
    """Lay out the state of an earlier call, where this machine does not have the run."""
    parts = sorted(output.glob(f"state_{recipe}.tar.*"))
    if folder.exists() or not parts:
        return
    folder.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as archive:
            archive.extractall(folder, filter="data")
    except tarfile.TarError:
        shutil.rmtree(folder)
        print(f"train: {parts[0].name}: expected the state of an earlier call, received a damaged file; begun anew")


def facts(item: dict[str, Any]) -> tuple[float, float] | None:
    """Test accuracy and minutes of training of a finished recipe."""
    if item.get("status") != "finished":
        return None
    return item["metrics"]["test/accuracy"], item["train_seconds"] / 60
