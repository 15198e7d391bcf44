"""The house: a room imports only rooms above it, and what is slow is imported where it belongs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tnt_exp"

# From the top of the way through to its bottom.
ROOMS = [
    "errors",
    "config",
    "hardware",
    "atomic_files",
    "formatting",
    "data",
    "augmentation",
    "model",
    "signals",
    "evaluation",
    "run_folder",
    "training",
    "preflight",
    "provenance",
    "export",
    "tracking",
    "reports",
    "experiment",
    "run",
    "sweep",
    "finished_runs",
    "cli",
]
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "conf" not in file.relative_to(PACKAGE).parts[:1])


def imports(file: Path, *, top_level: bool = False) -> Iterator[str]:
    """The modules a file imports; at its top level only, or anywhere but under TYPE_CHECKING."""
    tree = ast.parse(file.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in tree.body if top_level else ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "tnt_exp" and len(parts) > 1 and parts[1] in ROOMS else None


def own_room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_room_imports_only_rooms_above_it(file: Path) -> None:
    own = own_room(file)
    if own in ("__init__", "__main__"):
        return
    assert own in ROOMS, f"{own} has no place in the house: add it to ROOMS and to docs/design.md"
    below = {other for module in imports(file) if (other := room(module)) and ROOMS.index(other) > ROOMS.index(own)}
    assert not below


def test_only_tracking_imports_mlflow() -> None:
    rooms = {own_room(file) for file in FILES for module in imports(file) if module.split(".")[0] == "mlflow"}
    assert rooms == {"tracking"}


def test_slow_packages_are_imported_at_the_top_only_where_they_belong() -> None:
    slow = {"tensorflow", "keras", "jax", "torch"}
    rooms = {
        own_room(file) for file in FILES for module in imports(file, top_level=True) if module.split(".")[0] in slow
    }
    assert rooms <= {"augmentation", "model", "training", "evaluation", "export"}


def test_no_file_takes_longer_than_ten_minutes_to_read() -> None:
    assert {
        str(file.relative_to(PACKAGE)): n for file in FILES if (n := len(file.read_text().splitlines())) > 350
    } == {}
