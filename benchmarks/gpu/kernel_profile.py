"""Where the device's time goes in a training step: kernels by name and by kind, and how long the device was idle."""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_MOST = 25  # kernels that are listed
# Kinds of kernels by what XLA, cuBLAS, cuDNN, Triton and PyTorch call them; the first that fits.
_KINDS = {
    "products": r"gemm|cublas|cutlass|xmma|nvjet|matmul|\bdot|_dot|mm\b|fmha|attention",
    "convolution": r"conv|cudnn|implicit_",
    "copies": r"memcpy|memset|copy|transpose|concatenate|slice|catarray",
    "reductions": r"reduce|softmax|layer_norm|norm_",
    "elementwise": r"fusion|elementwise|loop|vectorized|multi_tensor|triton|aten::",
}


def profiled(backend: str, run: Callable[[], None]) -> dict[str, Any]:
    """Trace one call; `run` returns when the device has finished. TensorFlow writes no trace that can be read here."""
    with tempfile.TemporaryDirectory() as folder:
        if backend == "jax":
            import jax

            with jax.profiler.trace(folder):
                run()
            (file,) = Path(folder).rglob("*.trace.json.gz")
        elif backend == "torch":
            import torch

            with torch.profiler.profile() as trace:
                run()
            file = Path(folder) / "trace.json.gz"
            trace.export_chrome_trace(str(file))
        else:
            return {"left_out": "TensorFlow's profile needs TensorBoard"}
        return summary(json.loads(gzip.decompress(file.read_bytes())))


def summary(trace: dict[str, Any]) -> dict[str, Any]:
    """What a trace in Chrome's format says of the device; of a processor where no device was traced."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X" and event.get("dur", 0) > 0]
    device, where = list(_on_gpu(trace, events)), "gpu"
    if not device:
        device, where = list(_on_cpu(trace, events)), "cpu"
    if not device:
        return {"left_out": "the trace names no kernels"}
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in device)
    busy, end = 0.0, spans[0][0]
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    total = sum(event.get("self", event["dur"]) for event in device)
    by_name: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    by_kind: collections.Counter[str] = collections.Counter()
    for event in device:
        own = event.get("self", event["dur"])
        by_name[event["name"]] += own
        calls[event["name"]] += 1
        by_kind[kind_of(event["name"])] += own
    return {
        "where": where,
        "wall_ms": round((end - spans[0][0]) / 1000, 3),
        "idle_share": round(1 - busy / (end - spans[0][0]), 4),
        "kernels": len(device),
        "share_by_kind": {kind: round(time / total, 4) for kind, time in by_kind.most_common()},
        "top": [
            {"name": name[:120], "share": round(time / total, 4), "calls": calls[name]}
            for name, time in by_name.most_common(_MOST)
        ],
    }


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    low = name.lower()
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, low)), "other")


def _on_gpu(trace: dict[str, Any], events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Kernels and copies of a GPU: by category (PyTorch), or on the lines of its streams (JAX)."""
    streams = {place for place, name in _threads(trace).items() if name.startswith("Stream #")}
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") or (event["pid"], event.get("tid")) in streams:
            yield event


def _on_cpu(trace: dict[str, Any], events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Operations of XLA's threads and of PyTorch; `self`: the time of one without those inside it."""
    threads = {place for place, name in _threads(trace).items() if re.search(r"XLA(Eigen|Execute|Pjrt|Tfrt)", name)}
    by_thread: dict[Any, list[dict[str, Any]]] = collections.defaultdict(list)
    for event in events:
        place = (event["pid"], event.get("tid"))
        operation = place in threads and not re.search(r"^end: |::|Thunk", event["name"])
        if operation or event.get("cat") == "cpu_op":
            by_thread[place].append(event)
    for found in by_thread.values():
        around: list[dict[str, Any]] = []
        for event in sorted(found, key=lambda event: (event["ts"], -event["dur"])):
            while around and event["ts"] >= around[-1]["ts"] + around[-1]["dur"]:
                yield around.pop()
            if around:
                around[-1]["self"] -= event["dur"]
            around.append({**event, "self": event["dur"]})
        yield from around


def _threads(trace: dict[str, Any]) -> dict[tuple[Any, Any], str]:
    return {
        (event["pid"], event.get("tid")): str(event["args"]["name"])
        for event in trace["traceEvents"]
        if event.get("ph") == "M" and event.get("name") == "thread_name"
    }
