"""Stage `page`: one Markdown page with pictures, made of the JSON files of the other stages."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLOURS = {
    "ours, jax": "tab:green",
    "ours, tensorflow": "tab:blue",
    "ours, torch": "tab:purple",
    "timm, eager": "tab:orange",
    "timm, compiled": "tab:red",
    "seed's formulation, tensorflow": "tab:gray",
}
_LINES = {"bfloat16": "-", "tf32": "--", "float32": ":"}
_MARKERS = {"bfloat16": "o", "tf32": "s", "float32": "^"}
_NETWORKS = {"example": "the keras.io example's network", "same": "a network of timm's parameters, split heads"}
_BYTES = {"bfloat16": 2, "tf32": 4, "float32": 4}


def main(output: Path) -> bool:
    """Write page.md and its pictures; whether there was anything to show."""
    found = {
        name: json.loads((output / f"{name}.json").read_text())
        for name in ("check", "speed", "train")
        if (output / f"{name}.json").exists()
    }
    if not found:
        print(f"page: {output}: expected check.json, speed.json or train.json, found none; run those stages first")
        return False
    lines = ["# tnt-exp on this machine", "", *_machine(found), ""]
    if "check" in found:
        lines += ["## Check", "", *_check(found["check"]), ""]
    if "speed" in found:
        lines += ["## Speed of training", "", *_speed(found["speed"], output), ""]
    if "train" in found:
        lines += ["## Recipes", "", *_train(found["train"], output), ""]
    (output / "page.md").write_text("\n".join(lines).rstrip() + "\n")
    print(f"page: written to {output / 'page.md'}")
    return True


def _machine(found: dict[str, Any]) -> Iterator[str]:
    first = next(iter(found.values()))
    hardware = first["hardware"]
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_mib']} MiB, driver {gpu['driver']})" for gpu in hardware["gpus"])
    yield f"{gpus or 'No GPU'}; {hardware['cpu']}, {hardware['cores']} cores."
    if first["scale"] == "small":
        yield ""
        yield "**Scaled down for a processor: this shows that every stage runs, and no figure here is a GPU's.**"
    yield ""
    yield "| stage | date | seconds (limit) | packages | command |"
    yield "|---|---|---|---|---|"
    for name, record in found.items():
        packages = ", ".join(f"{key} {value}" for key, value in record["versions"].items())
        taken = f"{record['seconds']:.0f} ({record['limit_seconds']:.0f})"
        yield f"| {name} | {record['date']} | {taken} | {packages} | `{record['command']}` |"


def _check(record: dict[str, Any]) -> Iterator[str]:
    yield "| what | status | |"
    yield "|---|---|---|"
    for name, item in record["items"].items():
        yield f"| {name} | {item['status']} | {'; '.join(_about(name.partition('/')[2], item))} |"
    failures = {
        f"{name}: {test}": why
        for name, item in record["items"].items()
        for test, why in item.get("failures", {}).items()
    }
    for test, why in failures.items():
        yield f"\nFailed: `{test}`: {' '.join(why)}"


def _about(what: str, item: dict[str, Any]) -> Iterator[str]:
    if "why" in item:
        yield item["why"].replace("|", "/")
    if what == "device" and "name" in item:
        memory = f", {item['memory_bytes'] / 2**30:.1f} GiB" if item.get("memory_bytes") else ""
        yield f"{item['name']} ({item['kind']}{memory})"
        yield "XLA compiles the step" if item["xla"] else "no XLA"
        yield f"steps per call of the device: {item['steps_per_dispatch']}"
    if what == "digits" and "accuracy" in item:
        yield f"test accuracy {item['accuracy']:.4f}"
        yield f"{item['images_per_second']:,.0f} images/s; first step {item['first_step_seconds']:.1f} s"
    if what == "tests" and "tests" in item:
        yield f"{item['tests']} tests, {item['failed']} failed, {item['skipped']} skipped, {item['seconds']:.0f} s"
        if "left_out" in item:
            packages = ", ".join(sorted(set(item["left_out"].values())))
            yield f"{len(item['left_out'])} files left out for want of {packages}"
    if what == "continued" and "same_bits" in item:
        yield f"{'the same' if item['same_bits'] else 'other'} bits as a run that was not stopped"


def _speed(record: dict[str, Any], output: Path) -> Iterator[str]:
    rows = {name: item for name, item in record["items"].items() if " | " in name}
    measured = {name: item for name, item in rows.items() if "rate" in item}
    limits = record["items"].get("limits", {})
    yield from _limits(limits)
    yield "| side | network | precision | batch | images/s (quartiles) | share of peak | peak GiB | first call, s |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, item in rows.items():
        yield f"| {name} | {_row(item)} |"
    yield ""
    yield f"*example*: {_NETWORKS['example']}. *same*: {_NETWORKS['same']}."
    yield "*share of peak*: of the rate of a large product in that precision; operations are those of the network's"
    yield "products in three forward passes per step. Where products are folded, fewer are done."
    ratios = list(_ratios(measured))
    if ratios:
        yield ""
        yield from ratios
    if measured:
        _draw_rates(measured, output / "speed.png")
        yield "\n![Images per second over the batch size](speed.png)"
        if "copy_gb_per_second" in limits:
            _draw_roofline(record, measured, output / "roofline.png")
            yield "\n![Roofline](roofline.png)"
    for name, item in measured.items():
        if "top" in item.get("profile", {}):
            yield from _profile(name, item["profile"])


def _limits(limits: dict[str, Any]) -> Iterator[str]:
    """What the device can do, as it was measured and as its data sheet says."""
    peaks = [f"{name} {limits[f'matmul_tflops_{name}']:,.4g}" for name in _LINES if f"matmul_tflops_{name}" in limits]
    if not peaks:
        return
    yield f"A large product reaches, in TFLOP/s: {', '.join(peaks)}."
    yield f"A copy reaches {limits.get('copy_gb_per_second', 0):,.4g} GB/s, read and written."
    if "data_sheet" in limits:
        sheet = limits["data_sheet"]
        peaks = [f"{name} {sheet[name]}" for name in _LINES if name in sheet]
        memory = sheet["memory_gb_per_second"]
        yield f"The data sheet says, without sparsity: {', '.join(peaks)} TFLOP/s; {memory} GB/s."
    yield ""


def _row(item: dict[str, Any]) -> str:
    if "rate" not in item:
        reasons = [
            f"{key.replace('_', ' ')}: {item[key]}" for key in ("failed", "left_out", "does_not_fit") if key in item
        ]
        return " ".join(reasons).replace("|", "/") + " | | |"
    spread = item["images_per_second"]
    rates = f"{spread['median']:,.1f} ({spread['lower']:,.1f} to {spread['upper']:,.1f})"
    share = f"{100 * item['share_of_peak']:.1f} %" if "share_of_peak" in item else ""
    return f"{rates} | {share} | {item['peak_gib']:.2f} | {item['first_call_seconds']:.1f}"


def _ratios(measured: dict[str, Any]) -> Iterator[str]:
    """Ours to timm at the batch where each is fastest, by precision."""
    best: dict[tuple[str, str], float] = {}
    for name, item in measured.items():
        side, network, precision, _ = name.split(" | ")
        if network == "same":
            best[side, precision] = max(item["rate"], best.get((side, precision), 0.0))
    for (side, precision), rate in best.items():
        for peer in ("timm, eager", "timm, compiled"):
            if side.startswith("ours") and (peer, precision) in best:
                ratio = rate / best[peer, precision]
                yield f"- {side}, {precision}: {ratio:.2f} times {peer}, each at the batch where it is fastest."


def _profile(name: str, profile: dict[str, Any]) -> Iterator[str]:
    kinds = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in profile["share_by_kind"].items())
    yield f"\n**What limits {name.replace(' | ', ', ')}** (a trace on the {profile['where']}):"
    yield f"idle {100 * profile['idle_share']:.0f} % of {profile['wall_ms']:.1f} ms; of the rest {kinds}."
    yield ""
    yield "| kernel | share | calls |"
    yield "|---|---|---|"
    for kernel in profile["top"][:8]:
        yield f"| `{kernel['name'][:70]}` | {100 * kernel['share']:.1f} % | {kernel['calls']} |"


def _draw_rates(measured: dict[str, Any], file: Path) -> None:
    networks = [network for network in _NETWORKS if any(name.split(" | ")[1] == network for name in measured)]
    figure = Figure(figsize=(6 * len(networks), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, network in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True):
        curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for name, item in measured.items():
            side, own, precision, batch = name.split(" | ")
            if own == network:
                curves.setdefault((side, precision), []).append((int(batch), item["rate"]))
        for (side, precision), points in curves.items():
            xs, ys = zip(*sorted(points), strict=True)
            axes.plot(
                xs,
                ys,
                _LINES[precision],
                marker=_MARKERS[precision],
                color=_COLOURS[side],
                label=f"{side}, {precision}",
            )
        batches = sorted({batch for points in curves.values() for batch, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_ylim(0, 1.15 * max(rate for points in curves.values() for _, rate in points))
        axes.set(xlabel="images per step", ylabel="images per second of training", title=_NETWORKS[network])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _draw_roofline(record: dict[str, Any], measured: dict[str, Any], file: Path) -> None:
    """What the device allows at an arithmetic intensity, and what each side reaches at its best batch."""
    limits = record["items"]["limits"]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    best: dict[tuple[str, str, str], float] = {}
    for name, item in measured.items():
        side, network, precision, _ = name.split(" | ")
        best[side, network, precision] = max(item["tflops"], best.get((side, network, precision), 0.0))
    intensity = np.geomspace(1, 1000, 200)
    for precision, line in _LINES.items():
        peak = limits.get(f"matmul_tflops_{precision}")
        if peak and any(key[2] == precision for key in best):
            roof = np.minimum(peak, limits["copy_gb_per_second"] / 1000 * intensity)
            axes.loglog(intensity, roof, line, color="black", label=f"the device, {precision}")
    for (side, network, precision), reached in best.items():
        cost = record["networks"][network]
        x = cost["operations_per_image"] / (cost["numbers_moved_per_image"] * _BYTES[precision])
        face = _COLOURS[side] if network == "example" else "none"  # the other network: hollow
        axes.plot(
            x,
            reached,
            _MARKERS[precision],
            color=_COLOURS[side],
            markerfacecolor=face,
            markersize=9,
            label=f"{side}, {network}, {precision}",
        )
    axes.set(xlabel="operations per byte moved at the least", ylabel="TFLOP/s in training")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.savefig(file, dpi=110)


def _train(record: dict[str, Any], output: Path) -> Iterator[str]:
    yield "| recipe | status | epochs | minutes of training | test top-1 | images/s | calls |"
    yield "|---|---|---|---|---|---|---|"
    shown = {}
    for name, item in record["items"].items():
        if "curve" not in item:
            yield f"| {name} | {item['status']}: {item.get('why', '')} | | | | | |"
            continue
        shown[name] = item["curve"]
        minutes = sum(row["seconds"] for row in item["curve"]) / 60
        finished = item["status"] == "finished"
        accuracy = f"{100 * item['metrics']['test/accuracy']:.2f} %" if finished else ""
        rate = f"{item['images_per_second']:,.0f}" if finished else ""
        status = f"{item['status']}{': ' + item['why'] if 'why' in item else ''}"
        figures = f"{len(item['curve'])} | {minutes:.2f} | {accuracy} | {rate} | {len(item['calls'])}"
        yield f"| `{name}`, {item['backend']} | {status} | {figures} |"
    if any(shown.values()):
        _draw_curves(shown, output / "train.png")
        yield "\n![Curves](train.png)"


def _draw_curves(shown: dict[str, list[dict[str, float]]], file: Path) -> None:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, curve), colour in zip(shown.items(), ("tab:blue", "tab:orange", "tab:green", "tab:red"), strict=False):
        minutes = np.cumsum([row["seconds"] for row in curve]) / 60
        for key, line in (("train/accuracy", "--"), ("val/accuracy", "-")):
            points = [(minute, 100 * row[key]) for minute, row in zip(minutes, curve, strict=True) if key in row]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    line,
                    marker="." if len(points) < 60 else None,
                    color=colour,
                    label=f"{name}, {key}",
                )
    axes.set(xlabel="minutes of training", ylabel="top-1, %")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)
