"""The reference runs: their commands, their images, and what is compared of the folders they leave.

Nothing of `tnt_exp` is imported here: the command line and the files of a run are all that the reference relies on.
"""

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import preloaded
from PIL import Image
from safetensors.numpy import load_file

FOLDER = Path(__file__).parent
HASHES = FOLDER / "hashes.json"

_SMALL = [
    "model=tiny",
    "model.embed_dim=8",
    "trainer.deterministic=true",
    "trainer.batch_size=32",
    "trainer.epochs=3",
    "optimizer.learning_rate=3e-3",
    "tracking=off",
]
_DIGITS = [
    *_SMALL,
    "dataset.train_limit=256",
    "augmentation=[crop_flip,mixing]",
    "model.initialization=keras",
    "model.drop_path=0.1",
    "model.embedding_dropout=0.1",
    "model.attention_dropout=0.1",
    "model.mlp_dropout=0.1",
    "optimizer.learning_rate=1e-2",
    "optimizer.ema=0.9",
    "trainer.checkpoint.steps=1",
    "trainer.checkpoint.keep=1",
]
_PHOTOS = [
    *_SMALL,
    "model.depth=1",
    "dataset=image_folder",
    "dataset.path=photos",
    "dataset.image_size=8",
    "augmentation=[randaugment,mixing]",
    "trainer.batch_size=16",
]
_SWEEP = [*_SMALL, "model.depth=1", "dataset.train_limit=256", "trainer.epochs=1", "augmentation=crop_flip"]

# The arguments of `tnt-exp` that make each reference. The run folder is multirun/runs/NAME, the sweep's is sweep.
COMMANDS = {
    "digits": ["train", *_DIGITS, "run.name=digits"],
    "photos": ["train", *_PHOTOS, "run.name=photos"],
    "jax": ["train", *_DIGITS, "trainer.backend=jax", "run.name=jax"],
    "sweep": ["train", "-m", *_SWEEP, "model.embed_dim=4,8,12", "hydra.sweep.dir=sweep"],
}
POINTS = ("sweep/0", "sweep/1", "sweep/2")
# The digits run again, stopped by SIGTERM in its second epoch: the same command continues with it.
STOPPED = "stopped"

_TIMES = ("seconds", "time", "train/images_per_second", "train/waiting")
_ADDED = ("/balanced_accuracy", "/macro_f1")  # ends of the names of metrics that the kept runs did not measure
_CPU = ("vendor_id", "cpu family", "model", "model name", "stepping")
_CPU_FLAGS = ("avx", "fma", "amx", "sse4")
_VARIABLES = ("DNNL_", "JAX_ENABLE_", "OMP_", "ONEDNN_", "TF_ENABLE_", "TF_NUM_", "XLA_")
_PACKAGES = ("tensorflow", "jax", "jaxlib", "keras", "numpy", "scikit-learn", "pillow")


def command(name: str) -> list[str]:
    """The whole command of a reference run."""
    return [sys.executable, "-m", "tnt_exp", *COMMANDS[name]]


def tnt_exp(cwd: Path, *arguments: str) -> str:
    """What a command prints to standard output; it must succeed."""
    if "trainer.backend=jax" in arguments:
        command = [sys.executable, "-m", "tnt_exp", *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=280)
    else:
        done = preloaded.run([*arguments], cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_folder(cwd: Path, name: str) -> Path:
    """Where the command of a reference run, typed in `cwd`, leaves its files."""
    return cwd / name if name.startswith("sweep") else cwd / "multirun/runs" / name


def write_photos(cwd: Path) -> None:
    """Three classes of 24 coloured PNG files of 12x10 pixels in photos/, drawn from a fixed seed."""
    draw = np.random.default_rng(15)
    for number, name in enumerate(("red", "green", "blue")):
        folder = cwd / "photos" / name
        folder.mkdir(parents=True)
        for file in range(24):
            pixels = draw.integers(0, 160, (10, 12, 3), dtype=np.uint8)
            pixels[..., number] += 60
            Image.fromarray(pixels).save(folder / f"{file:02}.png")


def write_digits(cwd: Path) -> None:
    """Eight images of scikit-learn's digits as grey PNG files in files/, for `tnt-exp predict`."""
    from sklearn.datasets import load_digits

    (cwd / "files").mkdir()
    for number, image in enumerate(load_digits().images[:8]):
        Image.fromarray((image * 15).astype(np.uint8)).save(cwd / "files" / f"{number}.png")


def predictions(printed: str) -> dict[str, dict[str, float]]:
    """Probabilities of the classes, for each file of `tnt-exp predict --json`."""
    rows = [json.loads(line) for line in printed.splitlines()]
    return {Path(row["file"]).name: row["classes"] for row in rows}


def machine() -> dict[str, Any]:
    """What the last bits depend on: the processor, the cores, the variables that libraries read, the packages."""
    cpu = Path("/proc/cpuinfo")
    lines = [line.partition(":") for line in cpu.read_text().splitlines()] if cpu.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    flags = facts.get("flags", "").split()
    installed = {each.metadata["Name"].lower(): each.version for each in importlib.metadata.distributions()}
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **{key: facts[key] for key in _CPU if key in facts},
        "flags": sorted(flag for flag in flags if flag.startswith(_CPU_FLAGS)),
        "environment": {key: value for key, value in sorted(os.environ.items()) if key.startswith(_VARIABLES)},
        "packages": {name: installed[name] for name in _PACKAGES if name in installed},
    }


def arrays(run: Path) -> dict[str, np.ndarray]:
    """The arrays of the newest checkpoint: weights and random state, optimizer, weights of the chosen epoch."""
    return load_file(max(run.glob("checkpoints/step-*.safetensors")))


def curve(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without times and what was not measured when the reference was recorded."""
    with (run / "metrics.csv").open(newline="") as stream:
        return [_timeless(row) for row in csv.DictReader(stream)]


def metrics(run: Path) -> dict[str, float]:
    """The final metrics of result.json without times and what was not measured when the reference was recorded."""
    return _timeless(json.loads((run / "result.json").read_text())["metrics"])


def position(run: Path) -> dict[str, Any]:
    """Where the newest checkpoint is: steps, epoch, chosen epoch."""
    manifest = json.loads(json.loads(max(run.glob("checkpoints/step-*.json")).read_text())["manifest"])
    state = json.loads(manifest["numbers"])["state"]
    return {
        "step": manifest["step"],
        "position": _timeless(state["position"]),
        "chosen": state["choice"]["epoch"],
        "arrays": state["counts"],
    }


def hashes(run: Path) -> dict[str, Any]:
    """SHA-256 of each kind of array and of the curve; the final metrics and the position as they are."""
    kept = arrays(run)
    found: dict[str, Any] = {}
    for kind in sorted({name.partition("/")[0] for name in kept}):
        found[kind] = _hash({name: value for name, value in kept.items() if name.startswith(f"{kind}/")})
    rows = json.dumps(curve(run)).encode()
    return found | {"curve": hashlib.sha256(rows).hexdigest(), "metrics": metrics(run), **position(run)}


def _hash(kept: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(kept):
        digest.update(f"{name} {kept[name].dtype} {kept[name].shape} ".encode() + kept[name].tobytes())
    return digest.hexdigest()


def _timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _TIMES and not name.endswith(_ADDED)}
