"""`tnt-exp models`: the computed cost of each model preset."""

import json
from collections.abc import Sequence

from tnt_exp.atomic_files import JsonObject
from tnt_exp.cli import ArgumentParser
from tnt_exp.config.compose import compose, options
from tnt_exp.formatting import format_bytes, format_table
from tnt_exp.model import cost


def main(arguments: Sequence[str]) -> int:
    """Print the table of presets: parameters, MACs and activation memory per image."""
    parser = ArgumentParser(
        prog="tnt-exp models", description="Parameters, MACs and activation memory of each model preset."
    )
    parser.add_argument("overrides", nargs="*", default=[], help="overrides of every preset, such as model.depth=8")
    parser.add_argument("--classes", type=int, help="classes of the head (default: as published: 1000, 100 or 10)")
    parser.add_argument("--json", action="store_true", help="a list of objects, for programs")
    options_ = parser.parse_args(list(arguments))
    rows = [_row(name, options_.overrides, options_.classes) for name in options("model")]
    if options_.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows)
    return 0


def _row(name: str, overrides: Sequence[str], classes: int | None) -> JsonObject:
    model = compose([f"model={name}", *overrides]).model
    # The data for which each preset is made: digits, CIFAR-100 or ImageNet.
    made_for = 10 if model.image_size < 32 else 100 if model.image_size < 224 else 1000
    classes, channels = classes or made_for, 1 if model.image_size < 32 else 3
    return {
        "name": name,
        "image_size": model.image_size,
        "channels": channels,
        "classes": classes,
        "depth": model.depth,
        "inner_dim": model.inner_dim,
        "embed_dim": model.embed_dim,
        "parameters": cost.parameters(model, classes, channels),
        "macs": cost.macs(model, classes, channels),
        "activation_bytes": cost.activation_bytes(model, classes, channels),
    }


def _print(rows: Sequence[JsonObject]) -> None:
    header = ["model=", "input", "classes", "depth", "widths", "parameters", "MACs", "memory"]
    cells = [
        [
            row["name"],
            f"{row['image_size']}x{row['image_size']}x{row['channels']}",
            str(row["classes"]),
            str(row["depth"]),
            f"{row['inner_dim']}/{row['embed_dim']}",
            f"{row['parameters']:,}",
            _scaled(row["macs"]),
            format_bytes(row["activation_bytes"]),
        ]
        for row in rows
    ]
    print(format_table(header, cells, range(1, len(header))))
    print("MACs and memory (activations) are per image.")


def _scaled(number: float) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.1f} M"
