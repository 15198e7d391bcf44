"""The structure of the package: the order of its parts, imports, sizes of files, and the words in it."""

import ast
import importlib.util
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tnt_exp"

# From the top of the data path to its bottom: a part imports only parts above it (docs/architecture.md).
PARTS = [
    "errors",
    "credentials",
    "hardware",
    "atomic_files",
    "formatting",
    "signals",
    "config",
    "data",
    "augmentation",
    "model",
    "evaluation",
    "run_folder",
    "provenance",
    "training",
    "preflight",
    "export",
    "tracking",
    "reports",
    "experiment",
    "run",
    "sweeps",
    "finished_runs",
    "cli",
    "api",
]
FILES = sorted(file for file in PACKAGE.rglob("*.py") if "conf" not in file.relative_to(PACKAGE).parts[:1])

# Words of the first edition that a reader of Keras, MLflow, Hydra and Optuna would not understand, and what replaced
# them. They are neither in names nor in docstrings, comments, messages and pages.
BANNED_WORDS = {
    r"\btold\b|(?<!\.)\btells?\b|\bsaid\b|\bunsaid\b|\btelling\b|\bteller\b": "log, record, report, print, enqueue",
    r"\bslopes?\b": "gradients",
    r"\blifeline\b": "parent watcher",
    r"\bbooks\b": "study",
    r"\bspool\b": "outbox",
    r"\bkeeper\b": "checkpoint manager",
    r"\bstand[- _]ins?\b|\bstands? in for\b": "fake, replacement",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\bgo(es|ing)? on\b": "continue, resume",
    r"\bpassed over\b": "skip",
    r"\bstrays?\b|\bstrayed\b": "misplaced run",
    r"\bdied unseen\b|\bletting go\b": "dead process, stale lock",
    r"\b(images|tokens|seconds|bytes|values|steps|rows|files|megabytes|sequences|numbers|microseconds)"
    r" an? (step|second|image|epoch|run|job|class|patch|batch|trial|core|task|call|device|slot|channel)\b": "per",
    r"\b(a|one) (row|line|folder|file|axis|dot|process) an? \w+\b": "one ... per ...",
}
PAGES = [ROOT / "README.md", ROOT / "multirun/README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*FILES, *PAGES, *sorted((ROOT / "conf").rglob("*.yaml")), *sorted(PACKAGE.rglob("*.md"))]
TEXTS += [file for folder in ("tests", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
TEXTS.remove(Path(__file__))  # it has the list of the words


def module_of(file: Path) -> str:
    """The dotted name of a file of the package."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imports(file: Path, *, top_level: bool = False) -> Iterator[str]:
    """The modules that a file imports, at its top level only or anywhere (type checking included)."""
    tree = ast.parse(file.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                dotted = f"{node.module}.{name.name}"
                yield dotted if dotted in MODULES else node.module


def part_of(module: str) -> str | None:
    """The part of the package that a module belongs to; None for other packages."""
    names = module.split(".")
    return names[1] if names[0] == "tnt_exp" and len(names) > 1 and names[1] in PARTS else None


def own_part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_part_imports_only_parts_above_it(file: Path) -> None:
    own = own_part(file)
    if own in ("__init__", "__main__"):
        return
    assert own in PARTS, f"{own} has no place: add it to PARTS and to docs/architecture.md"
    below = {part for module in imports(file) if (part := part_of(module)) and PARTS.index(part) > PARTS.index(own)}
    assert not below


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: {found for found in imports(file) if found in MODULES} - {name} for name, file in MODULES.items()}
    order: list[str] = []
    while ready := [name for name in graph if name not in order and graph[name] <= set(order)]:
        order += ready
    # A package's own __init__ collects names of its modules.
    packages = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    circle = set(graph) - set(order) - packages
    assert {name: sorted(graph[name] & circle) for name in circle if graph[name] & circle} == {}


def test_only_tracking_imports_mlflow() -> None:
    parts = {own_part(file) for file in FILES for module in imports(file) if module.split(".")[0] == "mlflow"}
    assert parts == {"tracking"}


def test_slow_packages_are_imported_at_the_top_only_where_they_belong() -> None:
    slow = {"tensorflow", "keras", "jax", "torch"}
    parts = {
        own_part(file) for file in FILES for module in imports(file, top_level=True) if module.split(".")[0] in slow
    }
    assert parts <= {"augmentation", "model", "training", "evaluation", "export"}


def test_the_package_is_read_in_an_afternoon() -> None:
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: count for name, count in lines.items() if count > 350} == {}
    assert len(lines) <= 150
    assert sum(lines.values()) <= 20740


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_words_of_the_old_dialect(file: Path) -> None:
    text = file.read_text()
    # Names with underscores are words, too; keys of files are a contract (sweep.json, result.json, delivered.json).
    words = re.sub(r'"(points|told)"', "", text).replace("_", " ")
    words = re.sub(r"\s+", " ", words)
    found = {
        match[0]: standard
        for pattern, standard in BANNED_WORDS.items()
        for match in re.finditer(pattern, words, re.IGNORECASE)
    }
    assert found == {}


def _words(names: Iterable[str]) -> set[str]:
    found = (re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name) for name in names)
    return {_stem(word.lower()) for words in found for word in words}


def _stem(word: str) -> str:
    stem = re.sub(r"(ations?|ings?|ers?|ors?|ed|est|i?es|s|e|y)$", "", word)
    return re.sub(r"([^aeiou])\1$", r"\1", stem) if len(stem) > 2 else word


def _public_names(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.py"):
        yield file.stem
        yield from re.findall(r"^ *(?:def|class) ([A-Za-z]\w*)[(:\[]", file.read_text(errors="replace"), re.MULTILINE)


def test_names_are_terms_of_the_field() -> None:
    """The words of our public names are in names of Keras, MLflow, Hydra, Optuna or Python, or in the glossary."""
    known = set[str]()
    for library in ("keras", "mlflow", "hydra", "optuna", "asyncio", "concurrent", "multiprocessing", "unittest"):
        spec = importlib.util.find_spec(library)
        assert spec is not None
        assert spec.origin is not None
        known |= _words(_public_names(Path(spec.origin).parent))
    known |= _words(name for module in (os, pathlib, pickle, shutil, subprocess, threading) for name in dir(module))
    page = (ROOT / "docs/architecture.md").read_text()
    known |= _words(re.findall(r"^\|(.*)\|$", page.split("## Glossary")[1].split("\n## ")[0], re.MULTILINE))
    for part in ("sweeps", "tracking", "training", "data"):
        names = {name: _words([name]) - known for name in _public_names(PACKAGE / part)}
        assert {name: unknown for name, unknown in names.items() if unknown} == {}


def test_any_is_rare() -> None:
    count = 0
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            found = [node.returns] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []
            found += [node.annotation] if isinstance(node, ast.arg | ast.AnnAssign) else []
            names = [name for annotation in found if annotation is not None for name in ast.walk(annotation)]
            count += sum(isinstance(name, ast.Name) and name.id == "Any" for name in names)
    assert count <= 60


def test_functions_named_in_the_architecture_exist() -> None:
    found = re.findall(r"([\w/<>]+\.py):([A-Za-z_][\w.]*)", (ROOT / "docs/architecture.md").read_text())
    assert len(found) > 20
    for path, name in found:
        file = PACKAGE / path.replace("<backend>", "tensorflow")
        assert file.is_file(), path
        source = file.read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(def|class) {part}\b|^\s*{part}\b.* = ", source, re.MULTILINE), f"{path}:{name}"
