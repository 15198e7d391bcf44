"""One network in a process of its own: measures its training at each batch size, a line of JSON for each.

python -m benchmarks.gpu.worker SPEC, with SPEC as `benchmarks.gpu.speed` writes it.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.decoding import quartiles

ROUNDS = 5


def measure(run: Callable[[int], None], images_per_step: int, steps: int, seconds: float) -> dict[str, Any]:
    """First call, then rounds of about `seconds`; `run(steps)` returns when the device has finished.

    Args:
        run: Makes so many steps, a multiple of `steps`.
        images_per_step: Images of a step.
        steps: Steps of one call of the device.
        seconds: Length of a round.
    """
    begin = time.perf_counter()
    run(steps)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    run(steps)
    once = time.perf_counter() - begin
    count = steps * max(1, math.ceil(seconds / max(once, 1e-6)))
    rates = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        run(count)
        rates.append(count * images_per_step / (time.perf_counter() - begin))
    return {
        "images_per_second": quartiles(rates),
        "rounds": ROUNDS,
        "steps_per_round": count,
        "first_call_seconds": round(first, 2),
    }


def ours(spec: dict[str, Any], batch: int) -> tuple[Callable[[int], None], int, dict[str, Any]]:
    """The compiled step of `tnt-exp train`, fed as the training loop feeds it."""
    from benchmarks.ours import Ours

    one = Ours(batch, spec["overrides"], side=spec["side"])
    size, chunks = one.chunks()
    number = 0

    def run(steps: int) -> None:
        nonlocal number
        sums = None
        for _ in range(steps // size):
            images, labels = next(chunks)
            sums = one.step(images, labels, number, [1e-3] * size, 1.0)
            number += size
        np.asarray(_on_host(sums))  # waits for the device

    facts = {"steps_per_dispatch": size, "device": one.device.name, "parameters": one.parameters()}
    return run, size, facts


def timm(spec: dict[str, Any], batch: int) -> tuple[Callable[[int], None], int, dict[str, Any]]:
    """timm's TNT by PyTorch's AdamW; images lie on the device, normalised already."""
    import torch

    from benchmarks.timm_tnt import Timm

    one = Timm(batch, compiled=spec["compiled"], precision=spec["precision"], **spec["options"])

    def run(steps: int) -> None:
        loss = None
        for _ in range(steps):
            loss = one.step()
        assert loss is not None
        loss.item()  # waits for the device

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return run, 1, {"device": name, "parameters": one.parameters()}


def seed(spec: dict[str, Any], batch: int) -> tuple[Callable[[int], None], int, dict[str, Any]]:
    """The keras.io example's formulation, trained by Keras' own `fit`."""
    import keras

    from benchmarks.seed import Seed

    keras.config.set_dtype_policy("mixed_bfloat16" if spec["precision"] == "bfloat16" else "float32")
    one = Seed(batch)

    def run(steps: int) -> None:
        images, labels = np.concatenate([one.images] * steps), np.concatenate([one.labels] * steps)
        one.model.fit(images, labels, batch_size=batch, epochs=1, shuffle=False, verbose=0)

    return run, 4, {"parameters": one.parameters()}


def limits(spec: dict[str, Any]) -> None:
    """What the device can do: a large product in each precision, and a copy, on random data."""
    side, copied = spec["side"], spec["copied_bytes"]
    values = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    moved = np.random.default_rng(0).integers(0, 255, copied, dtype=np.uint8)
    for precision in ("bfloat16", "tf32", "float32"):
        multiply, copy = _LIMITS[spec["backend"]](values, moved, precision)
        flops = 2 * side**3 / _fastest(multiply)
        say(precision=precision, matmul_tflops=round(flops / 1e12, 3))
    say(copy_gb_per_second=round(2 * copied / _fastest(copy) / 1e9, 2))


def _fastest(call: Callable[[], None]) -> float:
    for _ in range(2):
        call()
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def _jax_limits(values: Any, moved: Any, precision: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import jax
    import jax.numpy as jnp

    kind = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    a, b = jnp.asarray(values, kind), jnp.asarray(moved)
    exact = "highest" if precision == "float32" else "default"
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=exact))
    changed = jax.jit(lambda x: x ^ jnp.uint8(1))
    return lambda: product(a).block_until_ready(), lambda: changed(b).block_until_ready()


def _torch_limits(values: Any, moved: Any, precision: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import torch

    from benchmarks.timm_tnt import set_precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    set_precision(precision)
    a = torch.from_numpy(values).to(device, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    b = torch.from_numpy(moved).to(device)
    c = torch.empty_like(b)

    def finished(call: Callable[[], Any]) -> Callable[[], None]:
        def wait() -> None:
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return wait

    return finished(lambda: a @ a), finished(lambda: c.copy_(b))


def _tensorflow_limits(values: Any, moved: Any, precision: str) -> tuple[Callable[[], None], Callable[[], None]]:
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    a = tf.cast(values, tf.bfloat16 if precision == "bfloat16" else tf.float32)
    b = tf.constant(moved)
    first = tf.function(lambda x: tf.linalg.matmul(x, x)[0, 0])  # the host waits for one number
    changed = tf.function(lambda x: tf.bitwise.invert(x))
    return lambda: np.asarray(first(a)), lambda: np.asarray(changed(b)[0])  # type: ignore[return-value]


_LIMITS = {"jax": _jax_limits, "torch": _torch_limits, "tensorflow": _tensorflow_limits}
_KINDS = {"ours": ours, "timm": timm, "seed": seed}


def _on_host(values: Any) -> Any:
    return values.cpu() if hasattr(values, "cpu") and callable(values.cpu) else values


def peak_bytes(backend: str) -> int:
    """The most memory of the device that was in use; on a processor, of the process."""
    if backend == "jax":
        import jax

        found = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    elif backend == "torch":
        import torch

        found = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    else:
        import tensorflow as tf

        there = tf.config.list_physical_devices("GPU")
        found = tf.config.experimental.get_memory_info("GPU:0")["peak"] if there else None
    return int(found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def say(**values: Any) -> None:
    """Answer with a line."""
    print(json.dumps(values), file=_ANSWERS, flush=True)


def main() -> None:
    """Measure what the argument names."""
    spec = json.loads(sys.argv[1])
    if spec["kind"] == "limits":
        limits(spec)
        return
    for batch in spec["batches"]:
        try:
            run, steps, facts = _KINDS[spec["kind"]](spec, batch)
            found = measure(run, batch, steps, spec["round_seconds"])
            if spec.get("profile"):
                from benchmarks.gpu.kernel_profile import profiled

                found["profile"] = profiled(spec["backend"], lambda run=run, steps=steps: run(steps))  # type: ignore[misc]
            say(batch=batch, **found, **facts, peak_gib=round(peak_bytes(spec["backend"]) / 2**30, 3))
        except Exception as error:  # the next batch may still fit
            say(batch=batch, error=f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}")


# What libraries print is no answer.
_ANSWERS = os.fdopen(os.dup(1), "w")
if __name__ == "__main__":
    os.dup2(2, 1)
    main()
