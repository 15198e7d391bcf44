"""Ours beside the seed's formulation and timm: `make bench`.

    python -m benchmarks.run                       every suite that can be run here
    python -m benchmarks.run seed --rounds 20      one suite

Each implementation runs in a process of its own. In each round every one makes its steps, alone, in rotating order; a
ratio is taken within a round, so that other load of the machine affects both. Prints medians with quartiles, and writes
benchmarks/results/speed_cpu.json or speed_gpu.json.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.decoding import processor, quartiles
from benchmarks.exports import FOLDER

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SEED = ["experiment=cifar100_keras_example"]
PLAIN = ["augmentation=none", "model.drop_path=0"]
# The example's formulation with the dimensions of conf/model/digits.yaml.
DIGITS = {
    **{"image": (8, 8, 1), "classes": 10, "size": 8, "patch": 4, "stride": 1, "depth": 3},
    **{"inner": 16, "outer": 48, "inner_heads": 2, "outer_heads": 4},
}
# timm's network of the example's dimensions: heads share the width, a class token, no dropout.
SAME = [
    *("model=tnt_s", "model.image_size=96", "model.patch_size=8", "model.stride=4", "model.depth=5"),
    *("model.embed_dim=64", "model.inner_dim=32", "model.num_heads=4", "model.inner_num_heads=2", *PLAIN),
]
TIMM_SAME = {
    **{"img_size": 96, "patch_size": 8, "first_stride": 4, "depth": 5},
    **{"embed_dim": 64, "inner_dim": 32, "num_heads_outer": 4, "num_heads_inner": 2},
}
TIMM_S = {
    **{"img_size": 224, "patch_size": 16, "first_stride": 4, "depth": 12},
    **{"embed_dim": 384, "inner_dim": 24, "num_heads_outer": 6, "num_heads_inner": 4},
}
# One allocator for all: the C library's, set to keep its memory. By default it gives large blocks back at once, which
# costs PyTorch most.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}


@dataclass(frozen=True)
class Side:
    """An implementation: its label, its backend, and how the worker builds it."""

    label: str
    backend: str
    spec: dict[str, Any]
    macs: int = 0  # of an image, forwards; 0: not known


@dataclass(frozen=True)
class Suite:
    """Sides that are compared with the first, the reference."""

    mode: str  # "train", "infer" or "first_step"
    batch: int
    sides: tuple[Side, ...]
    steps: int = 1  # a round


def ours(
    backend: str, overrides: Sequence[str], label: str = "", side: int = 32, channels: int = 3, classes: int = 100
) -> Side:
    """tnt-exp on a backend."""
    from tnt_exp.config.compose import compose
    from tnt_exp.model.cost import macs

    # On a GPU all compute in bfloat16, as timm does under autocast.
    precision = ["trainer.precision=mixed_bfloat16"] if on_gpu() else []
    given = [*overrides, f"trainer.backend={backend}", *precision]
    spec = {"kind": "ours", "overrides": given, "side": side, "channels": channels, "classes": classes}
    count = macs(compose(["dataset=cifar100", *given]).model, classes, channels)
    return Side(label or f"ours, {backend}", backend, spec, count)


def seed(**dimensions: Any) -> Side:
    """The example's formulation on TensorFlow, or on what there is."""
    backend = "tensorflow" if importlib.util.find_spec("tensorflow") else "jax"
    return Side(f"seed's formulation, {backend}", backend, {"kind": "seed", **dimensions})


def timm(compiled: bool, options: dict[str, int]) -> Side:
    """timm on PyTorch."""
    spec = {"kind": "timm", "compiled": compiled, **options}
    return Side("timm, compiled" if compiled else "timm, eager", "torch", spec)


def export(label: str, options: dict[str, str], side: int, overrides: Sequence[str] = ()) -> Side:
    """An export in a runtime; without overrides, of the shipped weights of CIFAR-100."""
    return Side(label, "tensorflow", {"kind": "export", **options, "side": side, "overrides": list(overrides)})


EXPORTS = {
    "Keras, TensorFlow": {"format": "keras"},
    "SavedModel": {"format": "savedmodel"},
    "LiteRT": {"format": "litert"},
    "ONNX Runtime": {"format": "onnx"},
    "ONNX Runtime, int8": {"format": "onnx_int8"},
}
OPENVINO = {
    "OpenVINO": {"format": "onnx", "openvino": "f32"},
    "OpenVINO, bfloat16": {"format": "onnx", "openvino": "bf16"},
    "OpenVINO, int8": {"format": "onnx_int8", "openvino": "f32"},
}


def suites(batch: int) -> dict[str, Suite]:
    """All of them."""
    backends = [name for name in ("tensorflow", "jax", "torch") if importlib.util.find_spec(name)]
    found = {}
    for mode in ("train", "infer"):
        example = [seed(), *(ours(backend, SEED) for backend in backends)]
        if mode == "train" and not on_gpu():  # there, all compute in bfloat16
            half = [*SEED, "trainer.precision=mixed_bfloat16"]
            example.append(ours(backends[0], half, f"ours, {backends[0]}, bfloat16"))
        found[f"seed_{mode}"] = Suite(mode, batch, tuple(example), steps=1 if mode == "train" else 3)
        if all(importlib.util.find_spec(name) for name in ("timm", "torch")):
            for name, options, overrides, size, images in (
                ("timm", TIMM_SAME, SAME, 96, batch),
                ("tnt_s", TIMM_S, ["model=tnt_s", *PLAIN], 224, 16 if batch == 128 else batch),
            ):
                peers = [timm(False, options), timm(True, options)]
                peers += [ours(backend, overrides, side=size) for backend in backends]
                found[f"{name}_{mode}"] = Suite(
                    mode, images, tuple(peers), steps=3 if (name, mode) == ("timm", "infer") else 1
                )
    if all(importlib.util.find_spec(name) for name in ("tensorflow", "onnxruntime")):
        for name, size, overrides, images in (
            ("cifar100", 32, [], (1, 128)),
            ("timm", 96, SAME, (1, 128)),
            ("tnt_s", 224, ["model=tnt_s", *PLAIN], (1, 16)),
        ):
            runtimes = EXPORTS | (OPENVINO if importlib.util.find_spec("openvino") else {})
            exports = [export(label, options, size, overrides) for label, options in runtimes.items()]
            if name != "cifar100" and importlib.util.find_spec("timm"):
                exports.insert(1, timm(True, TIMM_SAME if name == "timm" else TIMM_S))
            for count in images:
                steps = {1: 20 if name == "tnt_s" else 100, 16: 1, 128: 3}[count]
                found[f"inference_{name}_{count}"] = Suite("infer", count, tuple(exports), steps)
    if not on_gpu():  # there, all compute in bfloat16
        for name, overrides in (
            ("example", SEED),
            ("cifar_fast", ["model=cifar_fast"]),
            ("cifar100", ["experiment=cifar100_15min"]),
        ):
            sides = [
                ours(backends[0], [*overrides, f"trainer.precision={precision}"], precision)
                for precision in ("float32", "mixed_bfloat16")
            ]
            for mode in ("train", "infer"):
                found[f"precision_{name}_{mode}"] = Suite(mode, batch, tuple(sides), 1 if name == "example" else 4)
    deeper = [f"model.depth={2 * 5}"]
    found["first_step"] = Suite(
        "first_step",
        batch,
        (
            seed(),
            ours(backends[0], SEED),
            ours(backends[0], [*SEED, *deeper], "ours, twice as deep"),
        ),
    )
    found["first_step_digits"] = Suite(
        "first_step", 64, (seed(**DIGITS), ours(backends[0], ["experiment=digits"], "", 8, channels=1, classes=10))
    )
    looks = (
        ("none", "without"),
        ("keras_example", "the example's"),
        ("[randaugment,mixing]", "RandAugment and mixing"),
    )
    sides = [ours(backends[0], [*SEED, f"augmentation={look}"], label) for look, label in looks]
    found["augmentation"] = Suite("train", batch, tuple(sides))
    growth = [ours(backends[0], SEED, "depth 5, 96 px")]
    growth += [ours(backends[0], [*SEED, f"model.depth={d}"], f"depth {d}, 96 px") for d in (2, 10)]
    growth += [ours(backends[0], [*SEED, f"model.image_size={s}"], f"depth 5, {s} px") for s in (64, 128)]
    found["growth"] = Suite("train", batch, tuple(growth))
    for images in (batch // 4, batch // 2, batch * 2):
        found[f"growth_batch_{images}"] = Suite("train", images, (growth[0],), steps=max(1, batch // images))
    return found


class Worker:
    """The process of an implementation."""

    def __init__(self, side: Side, mode: str, batch: int) -> None:
        environment = os.environ | ALLOCATOR | {"KERAS_BACKEND": side.backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment["PYTHONFAULTHANDLER"] = "1"  # a crash names where it happened
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        spec = json.dumps({**side.spec, "batch": batch, "mode": mode})
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, its process writes to it while it lives
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.start = self._answer()

    def run(self, steps: int) -> dict[str, Any]:
        """Make steps; what they took."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args} ended with {code}. {self._errors.read()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass
class Result:
    """What was measured of one side."""

    side: Side
    rate: list[float] = field(default_factory=list)  # images/s
    rate_cpu: list[float] = field(default_factory=list)  # images per CPU-second
    first_step_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    peak_bytes: float = 0
    own_bytes: float = 0  # after a step, without pages of files
    parameters: float = 0
    bytes: float = 0  # of an export's files


def measure(suite: Suite, rounds: int, say: Any) -> list[Result]:
    """All rounds of a suite."""
    results = [Result(side) for side in suite.sides]
    if suite.mode == "first_step":
        for number in range(rounds):
            for result in turned(results, number):
                worker = Worker(result.side, "train", suite.batch)
                worker.close()
                result.first_step_seconds.append(worker.start["first_step_seconds"])
                say(f"round {number + 1} {result.side.label}: {worker.start['first_step_seconds']:.1f} s")
        return results
    workers = [(result, Worker(result.side, suite.mode, suite.batch)) for result in results]
    for _, worker in workers:
        worker.run(3)  # memory settles, on JAX slowly
    for number in range(rounds):
        for result, worker in turned(workers, number):
            answer = worker.run(suite.steps)
            images = suite.batch * suite.steps
            result.rate.append(images / answer["seconds"])
            result.rate_cpu.append(images / answer["cpu_seconds"])
            result.step_seconds += answer["step_seconds"]
            result.peak_bytes, result.own_bytes = answer["peak_bytes"], answer["own_bytes"]
        say(f"round {number + 1}: " + ", ".join(f"{result.side.label} {result.rate[-1]:.1f}/s" for result in results))
    for result, worker in workers:
        result.first_step_seconds.append(worker.start["first_step_seconds"])
        result.parameters, result.bytes = worker.start["parameters"], worker.start["bytes"]
        worker.close()
    return results


def turned(items: Sequence[Any], number: int) -> list[Any]:
    """The order of a round."""
    return [*items[number % len(items) :], *items[: number % len(items)]]


def summary(suite: Suite, results: list[Result]) -> list[dict[str, Any]]:
    """What is written of each side: ratios are to the first."""
    rows = []
    for result in results:
        row: dict[str, Any] = {"side": result.side.label, "parameters": result.parameters, "macs": result.side.macs}
        row["first_step_seconds"] = quartiles(result.first_step_seconds)
        if suite.mode == "first_step":
            pairs = zip(result.first_step_seconds, results[0].first_step_seconds, strict=True)
            row["time_ratio"] = quartiles([own / first for own, first in pairs])
        else:
            row["images_per_second"] = quartiles(result.rate)
            row["images_per_cpu_second"] = quartiles(result.rate_cpu)
            row["speed_ratio"] = quartiles([a / b for a, b in zip(result.rate, results[0].rate, strict=True)])
            row["cpu_speed_ratio"] = quartiles(
                [a / b for a, b in zip(result.rate_cpu, results[0].rate_cpu, strict=True)]
            )
            if suite.batch == 1:
                median, slowest = np.percentile(result.step_seconds, [50, 99])
                row["latency_ms"] = {"median": round(1000 * median, 3), "p99": round(1000 * slowest, 3)}
            if any(other.bytes for other in results):
                row["file_mb"] = round(result.bytes / 1e6, 2)
            row["peak_gib"] = round(result.peak_bytes / 2**30, 3)
            row["memory_ratio"] = round(result.peak_bytes / results[0].peak_bytes, 3)
            row["own_gib"] = round(result.own_bytes / 2**30, 3)
        rows.append(row)
    return rows


def show(console: Console, name: str, suite: Suite, rows: list[dict[str, Any]]) -> None:
    """A table of a suite."""
    table = Table(title=f"{name}: {suite.mode}, batch {suite.batch}", title_justify="left")
    keys = [key for key, value in rows[0].items() if key not in ("side", "macs") and value]
    for key in ("side", *keys):
        table.add_column(key.replace("_", " "))
    for row in rows:
        table.add_row(row["side"], *(_cell(row[key]) for key in keys))
    console.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict) and "p99" in value:
        return f"{value['median']:.2f} (99 %: {value['p99']:.2f})"
    if isinstance(value, dict):
        return f"{value['median']:.4g} ({value['lower']:.4g} to {value['upper']:.4g})"
    return f"{value:,}"


def limits() -> dict[str, float]:
    """What the machine can do: a large float32 product, GFLOP/s, and a copy, GB/s (read and written)."""
    code = (
        "import json, time, numpy, torch\n"
        "device = 'cuda' if torch.cuda.is_available() else 'cpu'\n"
        "side, kind = (8192, torch.bfloat16) if device == 'cuda' else (2048, torch.float32)\n"
        "a = torch.rand(side, side, device=device).to(kind); c = torch.zeros(2**28, dtype=torch.uint8, device=device)\n"
        "sync = torch.cuda.synchronize if device == 'cuda' else (lambda: None)\n"
        "def best(function):\n"
        "    times = []\n"
        "    for _ in range(12):\n"
        "        sync(); begin = time.perf_counter(); function(); sync(); times.append(time.perf_counter() - begin)\n"
        "    return min(times)\n"
        "d = torch.empty_like(c)\n"
        "print(json.dumps({'matmul_gflops': 2 * side**3 / best(lambda: a @ a) / 1e9,"
        " 'copy_gb_per_second': 2 * c.numel() / best(lambda: d.copy_(c)) / 1e9}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | ALLOCATOR)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def on_gpu() -> bool:
    """Whether there is an NVIDIA GPU; imports nothing."""
    return Path("/dev/nvidia0").exists()


def hardware() -> str:
    """The processor or the GPU."""
    if on_gpu():
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True).stdout.splitlines()[0]
    return processor()


def versions() -> dict[str, str]:
    """Of what computes."""
    found = {"python": platform.python_version()}
    for name in ("keras", "tensorflow", "jax", "torch", "timm", "numpy", "onnxruntime", "openvino"):
        if importlib.util.find_spec(name):
            found[name] = importlib.metadata.version(name)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", help="beginnings of names; default: all")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/speed_{cpu,gpu}.json, added to")
    options = parser.parse_args(arguments)
    console = Console(width=180)
    output = options.output or RESULTS / f"speed_{'gpu' if on_gpu() else 'cpu'}.json"
    known = json.loads(output.read_text())["suites"] if output.exists() else {}
    chosen = {
        name: suite
        for name, suite in suites(options.batch).items()
        if not options.suites or any(name.startswith(beginning) for beginning in options.suites)
    }
    if not chosen:
        parser.error(f"expected beginnings of {', '.join(suites(options.batch))}, received {options.suites}")
    with tempfile.TemporaryDirectory() as exports:
        os.environ[FOLDER] = exports
        for name, suite in chosen.items():
            rows = summary(suite, measure(suite, options.rounds, lambda line: console.print(line, style="dim")))
            show(console, name, suite, rows)
            key = name if options.batch == 128 else f"{name}@{options.batch}"
            known[key] = {
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
                "hardware": hardware(),
                "cores": psutil.cpu_count(),
                "versions": versions(),
                "mode": suite.mode,
                "batch": suite.batch,
                "rounds": options.rounds,
                "sides": rows,
                "limits": limits(),
            }
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"command": "make bench", "suites": known}, indent=1) + "\n")
    console.print(f"written to {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
