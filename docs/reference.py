"""Write docs/reference.md: every key of the schema, and what the options of each group set; and docs/messages.md.

python docs/reference.py            write them (`make docs`)
python docs/reference.py --check    exit code 1 where they are not what would be written (a test runs this)
"""

import ast
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

import tnt_exp
from tnt_exp.config.compose import conf_dir
from tnt_exp.config.keys import ConfigKey, config_keys
from tnt_exp.config.schema import GROUPS, Config, RunConfig
from tnt_exp.config.sweep import LauncherConfig, SweepConfig

FOLDER = Path(__file__).parent
PACKAGE = Path(tnt_exp.__file__).parent

_BEGIN = """\
# Reference

Every key, its default and what it means; written from `tnt_exp/config/` and `conf/` by `make docs`.
`tnt-exp train --cfg job` prints what a command comes to.
"""

_SIGNS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def page() -> str:
    """The whole page."""
    parts = [_BEGIN]
    for group, section in GROUPS.items():
        parts += [_section(group, section), *_keys(config_keys(section, f"{group}.")), "", *_options(group)]
    parts += [_section("run", RunConfig), *_keys(config_keys(RunConfig, "run."))]
    top = [field for field in config_keys(Config) if "." not in field.key]
    parts += ["\n## The rest", "", *_keys(iter(top))]
    parts += ["\n## experiment\n\nComplete experiments: `experiment=NAME`.", "", *_options("experiment")]
    parts += [_section("sweep", SweepConfig), *_keys(config_keys(SweepConfig, "sweep.")), "", *_options("sweep")]
    parts += [_section("launcher", LauncherConfig), *_keys(config_keys(LauncherConfig, "launcher."))]
    return "\n".join(parts).rstrip("\n") + "\n"


def _section(name: str, section: type) -> str:
    return f"\n## {name}\n\n{section.__doc__}\n"


def _keys(found: Iterator[ConfigKey]) -> Iterator[str]:
    yield "| key | expected | default | |"
    yield "|---|---|---|---|"
    for field in found:
        bounds = ", ".join(f"{_SIGNS[kind]} {bound:g}" for kind, bound in field.bounds.items())
        expected = "; ".join(part for part in (field.expects, bounds) if part)
        yield _row(f"`{field.key}`", expected, f"`{_shown(field.default)}`", field.doc)


def _options(group: str) -> Iterator[str]:
    yield "| option | what it is | sets |"
    yield "|---|---|---|"
    for file in sorted((conf_dir() / group).glob("*.yaml")):
        text = file.read_text()
        sets = ", ".join(f"`{key}={_shown(value)}`" for key, value in _settings(yaml.safe_load(text)))
        yield _row(f"`{group}={file.stem}`", _about(text), sets)


def _about(text: str) -> str:
    """The first sentence of the comment that a file opens with, or its first line."""
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#") and "@package" not in line]
    sentence = " ".join(comments).split(". ")[0].split(": tnt-exp")[0]
    return sentence.rstrip(".:")


def _settings(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a file; of its defaults list, what an experiment chooses."""
    for choice in values.get("defaults", []):
        if isinstance(choice, dict):
            for group, option in choice.items():
                yield group.removeprefix("override /"), option
    for key, value in values.items():
        if key == "defaults" or (key == "name" and not prefix):
            continue
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(value: Any) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


_MESSAGES = """\
# Messages

What the program says when an input cannot be used, with exit code 2; written from the source by `make docs`.
An ellipsis stands for what differs: a key, a path, a value. Each message ends with what to do, where that is known.
Search this page for the words of a message.
"""

_SUBJECTS = {
    "cli": "Commands",
    "config": "Configuration",
    "data": "Images",
    "model": "The model and its weights",
    "augmentation": "Augmentation",
    "training": "Training and devices",
    "run": "Run folders",
    "finished_runs": "Finished runs",
    "sweeps": "Sweeps",
    "tracking": "MLflow",
    "export": "Exports",
    "reports": "Reports",
}


def messages_page() -> str:
    """The page of messages."""
    found: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(_SUBJECTS.get(part, "Other"), set()).update(messages(ast.parse(file.read_text())))
    parts = [_MESSAGES]
    for subject in [*_SUBJECTS.values(), "Other"]:
        if texts := sorted(found.get(subject, ()), key=lambda text: text.lstrip("….: ").lower()):
            parts += [f"## {subject}\n", *(f"- `{text}`" for text in texts), ""]
    return "\n".join(parts).rstrip("\n") + "\n"


def messages(tree: ast.Module) -> Iterator[str]:
    """Yield the messages in a module: what `UserError` is raised with, and other texts that say what was expected."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    errors = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError" and node.args
    }
    for node in ast.walk(tree):
        text = _template(node) if id(node) not in documentation | inside else ""
        if re.search(r"[a-z]{3}", text) and (id(node) in errors or re.search(r"(^|[:)] )[Ee]xpected ", text)):
            yield text


def _template(node: ast.AST) -> str:
    """Return the text of a literal; an ellipsis stands for each value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    elif isinstance(node, ast.JoinedStr):
        text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    else:
        return ""
    return re.sub(r"\s+", " ", text).strip().replace("`", "'")


PAGES = {FOLDER / "reference.md": page, FOLDER / "messages.md": messages_page}


def main() -> int:
    """Write, or compare."""
    wrong = [file for file, text in PAGES.items() if not file.exists() or file.read_text() != text()]
    if "--check" in sys.argv[1:]:
        for file in wrong:
            print(f"docs/{file.name} is not what the source and conf/ say: run `make docs`", file=sys.stderr)
        return int(bool(wrong))
    for file in wrong:
        file.write_text(PAGES[file]())
    return 0


if __name__ == "__main__":
    sys.exit(main())
