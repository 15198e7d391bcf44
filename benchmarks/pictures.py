"""Draw the roofline and the growth curve of what `make bench` measured, and print the tables of docs/performance.md.

python -m benchmarks.pictures
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.run import RESULTS, ROOT, SAME, SEED
from tnt_exp.config.compose import compose
from tnt_exp.model.cost import cost_items

FOLDER = ROOT / "docs" / "pictures"
NETWORKS = {"seed_train": SEED, "timm_train": SAME, "tnt_s_train": ["model=tnt_s"]}
NAMES = {"seed_train": "keras.io example", "timm_train": "same size, split heads", "tnt_s_train": "TNT-S, 224 px"}


def training_cost(overrides: list[str]) -> tuple[float, float]:
    """Of the training of an image: floating-point operations, and activations that are kept for the backward pass.

    The backward pass costs two forward passes.
    """
    found = list(cost_items(compose(["dataset=cifar100", *overrides]).model, 100, 3))
    return 6 * sum(part.macs for part in found), sum(part.activations for part in found)


def work(overrides: list[str]) -> tuple[float, float]:
    """Of a training step, an image: floating-point operations, and bytes that are moved at the least.

    Each kept activation is written once and read once, float32.
    """
    operations, activations = training_cost(overrides)
    return operations, 8 * activations


def roofline(suites: dict[str, Any], file: Path) -> None:
    """What the machine allows at an arithmetic intensity, and what each side reaches."""
    machine = suites["seed_train"]["limits"]
    peak, copy = machine["matmul_gflops"], machine["copy_gb_per_second"]
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    intensity = np.geomspace(1, 300, 100)
    axes.loglog(intensity, np.minimum(peak, copy * intensity), color="black", label="the machine's limits")
    colours = {"seed's": "tab:gray", "timm, eager": "tab:orange", "timm, compiled": "tab:red"}
    colours |= {"ours, tensorflow": "tab:blue", "ours, jax": "tab:green", "ours, torch": "tab:purple"}
    markers = dict(zip(NETWORKS, "osD", strict=True))
    for name, overrides in NETWORKS.items():
        if name not in suites:
            continue
        operations, moved = work(overrides)
        for row in suites[name]["sides"]:
            if row["side"].endswith("bfloat16"):
                continue  # the machine's limits are those of float32
            reached = row["images_per_second"]["median"] * operations / 1e9
            colour = next(colour for label, colour in colours.items() if row["side"].startswith(label))
            axes.plot(
                operations / moved,
                reached,
                markers[name],
                color=colour,
                markersize=8 if row["side"].startswith("ours") else 13,
            )
    for label, colour in colours.items():
        axes.plot([], [], "o", color=colour, label={"seed's": "seed's formulation"}.get(label, label))
    for name, marker in markers.items():
        if name not in suites:
            continue
        axes.plot([], [], marker, color="none", markeredgecolor="black", label=NAMES[name])
    axes.set(
        xlabel="operations a byte moved at the least",
        ylabel="GFLOP/s reached in training",
        xlim=(1, 300),
        ylim=(5, None),
    )
    axes.set_title(f"{suites['seed_train']['hardware']}, {suites['seed_train']['cores']} cores", fontsize=10)
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8, loc="lower right", ncols=2)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def growth(suites: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(Label, arithmetic a step, time for it), both relative to the first."""
    rows = [(row, suites["growth"]["batch"]) for row in suites["growth"]["sides"]]
    for name, suite in suites.items():
        if name.startswith("growth_batch"):
            rows.append(({**suite["sides"][0], "side": f"batch {suite['batch']}"}, suite["batch"]))
    first, batch = rows[0]
    return [
        (
            row["side"],
            row["macs"] * images / (first["macs"] * batch),
            images / batch * first["images_per_second"]["median"] / row["images_per_second"]["median"],
        )
        for row, images in rows
    ]


def draw_growth(suites: dict[str, Any], file: Path) -> None:
    """Time of a step against its arithmetic."""
    figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
    line = np.array([0.15, 4])
    axes.loglog(line, line, color="black", linewidth=1, label="proportional")
    axes.fill_between(line, line / 1.15, line * 1.15, alpha=0.15, color="black", label="within 15 %")
    for label, arithmetic, seconds in growth(suites):
        axes.plot(arithmetic, seconds, "o", color="tab:blue")
        left = label.startswith("batch")  # some have the same arithmetic as a network
        offset = {"xytext": (-6, 6) if left else (6, -10), "ha": "right" if left else "left"}
        axes.annotate(label, (arithmetic, seconds), textcoords="offset points", fontsize=8, **offset)
    ticks = ["0.25", "0.5", "1", "2", "4"]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([float(tick) for tick in ticks], ticks)
        axis.set_minor_formatter("")
    axes.set(xlabel="arithmetic of a step (depth 5, 96 px, batch 128 = 1)", ylabel="time of a step")
    axes.grid(which="both", alpha=0.2)
    axes.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def table(suites: dict[str, Any]) -> Iterator[str]:
    """Lines of docs/performance.md."""
    for name, suite in suites.items():
        if name.startswith("inference"):
            yield from inference_table(name, suite)
            continue
        yield (
            f"| {name}: {suite['mode']}, batch {suite['batch']}, {suite['rounds']} rounds | images/s | "
            "images per CPU-second | speed relative to the first | peak GiB | first step, s |"
        )
        yield "|---|---|---|---|---|---|"
        for row in suite["sides"]:
            first = row["first_step_seconds"]["median"]
            if suite["mode"] == "first_step":
                ratio = row["time_ratio"]
                yield f"| {row['side']} | | | {_spread(ratio)} (of time) | | {first:.1f} |"
                continue
            yield (
                f"| {row['side']} | {row['images_per_second']['median']:.1f} | "
                f"{row['images_per_cpu_second']['median']:.1f} | {_spread(row['speed_ratio'])} | "
                f"{row['peak_gib']:.2f} | {first:.1f} |"
            )
        yield ""


def inference_table(name: str, suite: dict[str, Any]) -> Iterator[str]:
    """Lines of docs/performance.md about exports."""
    latency = "ms per image (99 % below) | " if suite["batch"] == 1 else ""
    yield (
        f"| {name}: batch {suite['batch']}, {suite['rounds']} rounds | {latency}images/s | speed relative to the first "
        "| peak GiB | file, MB |"
    )
    yield "|---" * (6 if latency else 5) + "|"
    for row in suite["sides"]:
        own = row.get("latency_ms", {})
        latency = f"{own['median']:.2f} ({own['p99']:.2f}) | " if own else ""
        size = f"{row['file_mb']:.2f}" if row["file_mb"] else ""
        speed = f"{row['images_per_second']['median']:.1f} | {_spread(row['speed_ratio'])}"
        yield f"| {row['side']} | {latency}{speed} | {row['peak_gib']:.2f} | {size} |"
    yield ""


def _spread(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['lower']:.2f} to {value['upper']:.2f})"


def main() -> int:
    """Draw what was measured on a CPU."""
    suites = json.loads((RESULTS / "speed_cpu.json").read_text())["suites"]
    roofline(suites, FOLDER / "performance_roofline.png")
    draw_growth(suites, FOLDER / "performance_growth.png")
    for label, arithmetic, seconds in growth(suites):
        print(
            f"{label:20} arithmetic {arithmetic:.3f}  time {seconds:.3f}  time / arithmetic {seconds / arithmetic:.3f}"
        )
    print("\n".join(table(suites)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
