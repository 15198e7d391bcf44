"""Compare two runs to the bit."""

from pathlib import Path

from tnt_exp.atomic_files import read_json
from tnt_exp.run_folder import TIME_COLUMNS, read_metrics


def first_difference(run: Path, other: Path) -> str | None:
    """Return the first difference of two runs in curves, final metrics, weights and optimizer; None: equal to the bit.

    Args:
        run: A run folder.
        other: The run folder that it is compared with; its values are those in brackets.
    """
    curve, other_curve = _curve(run), _curve(other)
    for row, there in zip(curve, other_curve, strict=False):
        for name in dict.fromkeys([*row, *there]):
            if row.get(name) != there.get(name):
                return f"epoch {there.get('epoch')}: {name} {row.get(name)} (there: {there.get(name)})"
    if len(curve) != len(other_curve):
        return f"{len(curve)} epochs (there: {len(other_curve)})"
    metrics, other_metrics = (_metrics(folder) for folder in (run, other))
    for name in dict.fromkeys([*metrics, *other_metrics]):
        if metrics.get(name) != other_metrics.get(name):
            return f"{name} {metrics.get(name)} (there: {other_metrics.get(name)})"
    return _state_difference(run, other)


def _curve(folder: Path) -> list[dict[str, str]]:
    rows = read_metrics(folder).rows
    return [{name: value for name, value in row.items() if name not in TIME_COLUMNS} for row in rows]


def _metrics(folder: Path) -> dict[str, float]:
    found = read_json(folder / "result.json") or {}
    return {name: value for name, value in found.get("metrics", {}).items() if name not in TIME_COLUMNS}


def _state_difference(run: Path, other: Path) -> str | None:
    """Compare the last checkpoints: weights, optimizer, random state, weights of the chosen epoch."""
    from safetensors.numpy import load_file

    last = [max(folder.glob("checkpoints/step-*.safetensors"), default=None) for folder in (run, other)]
    if last[0] is None or last[1] is None:
        return f"checkpoint {last[0]} (there: {last[1]})"
    if last[0].name != last[1].name:
        return f"last checkpoint {last[0].stem} (there: {last[1].stem})"
    arrays, others = load_file(last[0]), load_file(last[1])
    for name in dict.fromkeys([*arrays, *others]):
        if name not in arrays or name not in others or arrays[name].tobytes() != others[name].tobytes():
            return f"{last[0].stem}: {name}"
    return None
