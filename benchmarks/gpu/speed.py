"""Stage `speed`: images per second of training, beside the seed's formulation and timm, against the device's limits.

Each network is measured in a process of its own, one after the other, from small batches to large ones. What is
measured on this hardware already is kept: a call that ran out of time is continued by the next one.
"""

import json
import queue
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.stage import BACKENDS, Stage, end_group, installed, last_line, open_process, python
from benchmarks.run import ALLOCATOR, SAME, SEED, TIMM_SAME

PRECISIONS = {
    "bfloat16": ["trainer.precision=mixed_bfloat16"],
    "tf32": ["trainer.precision=float32", "trainer.tf32=true"],
    "float32": ["trainer.precision=float32", "trainer.tf32=false"],
}
BATCHES = (128, 512, 2048, 4096)
SMALL_BATCHES = (8, 16)
# Of the data sheets, without sparsity: TFLOP/s by precision, and GB/s of memory.
DATA_SHEETS = {
    "H100 80GB HBM3": {"bfloat16": 989, "tf32": 494, "float32": 67, "memory_gb_per_second": 3350},
    "H100 PCIe": {"bfloat16": 756, "tf32": 378, "float32": 51, "memory_gb_per_second": 2000},
    "H200": {"bfloat16": 989, "tf32": 494, "float32": 67, "memory_gb_per_second": 4800},
    "A100-SXM4-80GB": {"bfloat16": 312, "tf32": 156, "float32": 19.5, "memory_gb_per_second": 2039},
    "A100-SXM4-40GB": {"bfloat16": 312, "tf32": 156, "float32": 19.5, "memory_gb_per_second": 1555},
    "L4": {"bfloat16": 121, "tf32": 60, "float32": 30, "memory_gb_per_second": 300},
}


@dataclass(frozen=True)
class Side:
    """A network, trained in one way.

    Attributes:
        name: Of it and of its figures.
        network: "example" (the keras.io example's network) or "same" (timm's network in the example's dimensions).
        backend: Of Keras.
        precision: A key of `PRECISIONS`.
        spec: The request to the worker.
        batches: Sizes that are measured; None: all.
    """

    name: str
    network: str
    backend: str
    precision: str
    spec: dict[str, Any] = field(hash=False)
    batches: tuple[int, ...] | None = None


def sides(backends: list[str], small: bool) -> list[Side]:
    """What is measured, what matters most first."""
    found: list[Side] = []

    def ours(network: str, backend: str, precision: str, batches: tuple[int, ...] | None = None, **more: Any) -> None:
        overrides = [*(SEED if network == "example" else SAME), f"trainer.backend={backend}", *PRECISIONS[precision]]
        spec = {"kind": "ours", "overrides": overrides, "side": 32 if network == "example" else 96, **more}
        found.append(Side(f"ours, {backend}", network, backend, precision, spec, batches))

    def timm(compiled: bool, precision: str, batches: tuple[int, ...] | None = None) -> None:
        spec = {"kind": "timm", "compiled": compiled, "options": TIMM_SAME}
        name = f"timm, {'compiled' if compiled else 'eager'}"
        found.append(Side(name, "same", "torch", precision, spec, batches))

    there = [backend for backend in BACKENDS if backend in backends]
    first = "float32" if small else "bfloat16"  # a processor without bfloat16 is many times slower with it
    best, *others = there
    ours("example", best, first, profile=True)
    if installed("torch", "timm"):
        if not small:  # on a processor compiling takes minutes, so it comes last
            timm(True, first)
        ours("same", best, first)
        timm(False, first)
    for backend in others:
        ours("example", backend, first, profile=True)
        ours("same", backend, first)
    if installed("tensorflow"):
        spec = {"kind": "seed"}
        few = SMALL_BATCHES[-1:] if small else (128, 512)
        found.append(Side("seed's formulation, tensorflow", "example", "tensorflow", first, spec, few))
    for precision in PRECISIONS:
        if precision == first or (small and precision == "tf32"):
            continue
        few = SMALL_BATCHES[:1] if small else (128, 2048)
        ours("example", best, precision, few)
        if installed("torch", "timm") and not small:
            timm(True, precision, few)
    if installed("torch", "timm") and small:
        timm(True, first, SMALL_BATCHES[:1])
    return found


def main(stage: Stage) -> bool:
    """Run the stage; whether something was measured and nothing failed."""
    stage.start(networks=networks(), data_sheet=None)
    best = next(backend for backend in BACKENDS if backend in stage.backends)
    _limits(stage, best)
    failed = False
    for side in sides(list(stage.backends), stage.small):
        batches = side.batches or (SMALL_BATCHES if stage.small else BATCHES)
        failed |= not _measure(stage, side, list(batches))
    return not failed and any(name.startswith("ours") for name in stage.record["items"])


def networks() -> dict[str, dict[str, float]]:
    """Of an image's training, for each network: operations, and numbers that are written and read at the least.

    The backward pass costs two forward passes; each activation that is kept is written once and read once.
    """
    from benchmarks.pictures import training_cost

    found = {}
    for name, overrides in (("example", SEED), ("same", SAME)):
        operations, activations = training_cost(overrides)
        found[name] = {"operations_per_image": operations, "numbers_moved_per_image": 2 * activations}
    return found


def key(side: Side, batch: int) -> str:
    """The name of an item."""
    return f"{side.name} | {side.network} | {side.precision} | {batch}"


def _limits(stage: Stage, backend: str) -> None:
    if "limits" in stage.record["items"]:
        return
    spec = {"kind": "limits", "backend": backend, "side": 1024 if stage.small else 8192}
    spec["copied_bytes"] = 2**26 if stage.small else 2**32
    found: dict[str, Any] = {"backend": backend}
    for answer in _answers(stage, spec, backend, seconds=stage.left / 4):
        if "precision" in answer:
            found[f"matmul_tflops_{answer['precision']}"] = answer["matmul_tflops"]
        else:
            found |= answer
    names = [gpu["name"] for gpu in stage.record["hardware"]["gpus"]]
    sheet = next((sheet for part, sheet in DATA_SHEETS.items() if names and part in names[0]), None)
    stage.add("limits", **found, **({"data_sheet": sheet} if sheet else {}))


def _measure(stage: Stage, side: Side, batches: list[int]) -> bool:
    """Measure a side at each batch; False: a process failed."""
    items = stage.record["items"]
    wanted = [batch for batch in batches if "images_per_second" not in items.get(key(side, batch), {})]
    if not wanted:
        return True
    spec = {**side.spec, "backend": side.backend, "precision": side.precision, "batches": wanted}
    spec["round_seconds"] = 0.2 if stage.small else 1.0
    good = True
    for answer in _answers(stage, spec, side.backend, seconds=stage.left):
        if "batch" not in answer:
            good = False
            stage.add(key(side, wanted[0]), failed=answer["error"])
            break
        batch = answer.pop("batch")
        wanted.remove(batch)
        if "error" in answer:
            memory = any(words in answer["error"] for words in ("memory", "MEMORY", "RESOURCE_EXHAUSTED"))
            good &= memory  # a batch that does not fit is an answer
            stage.add(key(side, batch), **{"does_not_fit" if memory else "failed": answer["error"]})
            continue
        rate = answer["images_per_second"]["median"]
        reached = rate * stage.record["networks"][side.network]["operations_per_image"] / 1e12
        peak = items.get("limits", {}).get(f"matmul_tflops_{side.precision}")
        share = {"share_of_peak": round(reached / peak, 4)} if peak else {}
        stage.add(key(side, batch), rate=rate, tflops=round(reached, 4), **share, **answer)
    for batch in wanted if good else []:
        if key(side, batch) not in items:
            stage.add(key(side, batch), left_out="the stage's time limit; the same command continues with it")
    return good


def _answers(stage: Stage, spec: dict[str, Any], backend: str, seconds: float) -> Any:
    """Lines of a worker until it ends or the time is over; a failure is a last line with `error`."""
    limit = time.monotonic() + min(seconds, stage.left) - 5
    if limit - time.monotonic() < 20:
        return
    environment = {**ALLOCATOR, "KERAS_BACKEND": backend}
    command = python("-m", "benchmarks.gpu.worker", json.dumps(spec))
    lines: queue.Queue[str | None] = queue.Queue()
    log = stage.output / "worker.log"
    with log.open("w") as errors, open_process(command, environment, stderr=errors, stdout=subprocess.PIPE) as process:

        def read() -> None:
            assert process.stdout
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        try:
            while (line := lines.get(timeout=max(limit - time.monotonic(), 0.1))) is not None:
                yield json.loads(line)
            process.wait(timeout=10)
        except (queue.Empty, subprocess.TimeoutExpired):
            end_group(process, signal.SIGKILL)
            return
    if process.returncode != 0:
        yield {"error": f"exit code {process.returncode}: {last_line(log.read_text(errors='replace'))[:300]}"}
    log.unlink(missing_ok=True)
