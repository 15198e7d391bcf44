"""Overrides as they are typed: `model.depth=8`.

A value of a key that takes text is taken literally, whatever Hydra's grammar would make of it: `run.name=1.10`,
`dataset.path=photos (2023)`. With -m commas separate the values of a sweep.
"""

import re
import shlex
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from tnt_exp.config.keys import config_keys, did_you_mean, find_key
from tnt_exp.config.schema import GROUPS
from tnt_exp.errors import UserError

_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str|int|float|bool|json_str)\(.*\)", re.S)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)
_VALUE = rf"\s*(?:{_QUOTED.pattern})\s*|[^,'\"]*"  # of a sweep: in quotes, or without any
_VALUES = re.compile(rf"(?:(?:{_VALUE}),)+", re.S)
_CLOSING = {"[": "]", "{": "}", "(": ")"}


def literal_overrides(overrides: Iterable[str], *, sweep: bool = False) -> list[str]:
    """Quote the values of keys that take text, so that Hydra reads them as typed; commas separate those of a sweep."""
    return [_literal(text, sweep=sweep) for text in listed(overrides)]


def listed(overrides: Iterable[str]) -> list[str]:
    """Return one override or several as a list, or raise `UserError`: they are not texts, or not in UTF-8."""
    found = list(overrides) if isinstance(overrides, Iterable) and not isinstance(overrides, str) else [overrides]
    for each in found:
        if not isinstance(each, str) or each != each.encode(errors="ignore").decode():
            raise UserError(f"overrides: expected texts such as 'model.depth=8', received {each!r}; write it in UTF-8.")
    return found


def _literal(text: str, *, sweep: bool) -> str:
    key, sign, value = text.partition("=")
    if not sign or not value or not _takes_text(key) or (sweep and _FUNCTION.fullmatch(value)):
        return text
    values = [value]
    if sweep and _VALUES.fullmatch(f"{value},"):  # a comma in quotes belongs to a value
        found = re.findall(rf"({_VALUE}),", f"{value},", re.S)
        values = [each.strip() if _QUOTED.fullmatch(each.strip()) else each for each in found]
    elif sweep and "'" not in value:
        values = value.split(",")
    return f"{key}={','.join(map(quote, values))}"


def quote(value: str) -> str:
    """Return a value in the quotes of Hydra's grammar; null and what is quoted already stay as they are."""
    if value == "null" or _QUOTED.fullmatch(value):
        return value
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", value)
    return "'" + re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped) + "'"


def _takes_text(key: str) -> bool:
    field = find_key(key)
    if field is None:
        return False
    kinds = typing.get_args(field.type) if isinstance(field.type, types.UnionType) else (field.type,)
    return str in kinds


def parse_override(text: str) -> Override:
    """Parse one override, or raise `UserError`: it is not of the form KEY=VALUE."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(_syntax_error(text, str(error.__cause__ or error).splitlines()[0])) from error
    if not override.key_or_group:
        raise UserError(_syntax_error(text, ""))
    return override


def _syntax_error(text: str, reason: str) -> str:
    """Return one line about an override that Hydra's grammar refuses."""
    key, sign, value = text.partition("=")
    name = key.lstrip("+~")
    if sign and re.fullmatch(r"[A-Za-z_][\w.@/]*", name) and not is_known_key(name):
        return unknown_key(name)
    shown = f"{text!r}: expected KEY=VALUE, as in model.depth=8, received"
    if not sign:
        return f"{shown} no = sign."
    if not name:
        return f"{shown} no key before the = sign."
    if (problem := _unbalanced(value)) is not None:
        return f"{shown} {problem}."
    quoted = f"{key}={quote(value)}"
    quoted = shlex.quote(quoted) if re.search(r'["$`\\!]', quoted) else f'"{quoted}"'
    if character := re.search(r"LexerNoViableAltException\('(.)'\)|token recognition error at: '(.)'", reason):
        found = character[1] or character[2]
        return f"{shown} the character {found!r}, which needs quotes: {quoted}."
    return f"{shown} a value that cannot be read. Text with special characters needs quotes: {quoted}."


def _unbalanced(value: str) -> str | None:
    """Return what is not closed in a value, if anything."""
    rest = _QUOTED.sub("", value)
    if quotes := re.search("['\"]", rest):
        return f"a quote {quotes[0]} that is not closed"
    open_: list[str] = []
    for character in rest:
        if character in _CLOSING:
            open_.append(character)
        elif character in _CLOSING.values() and (not open_ or _CLOSING[open_.pop()] != character):
            return f"a bracket {character} without its opening one"
    return f"a bracket {open_[-1]} that is not closed" if open_ else None


def is_hydra_override(override: Override) -> bool:
    """Return True for `hydra.KEY` and `hydra/GROUP`, which Hydra reads itself."""
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def is_known_key(name: str) -> bool:
    """Return True for a key, a group, and what belongs to Hydra, sweeps or launchers."""
    section = re.split("[./@]", name)[0]
    return section in ("hydra", "sweep", "launcher") or name in (*GROUPS, "experiment") or find_key(name) is not None


def unknown_key(name: str) -> str:
    """Return one line about a key that does not exist."""
    known = [field.key for field in config_keys()]
    return (
        f"{name}: expected a key of the configuration, received an unknown one."
        f"{did_you_mean(name, [*known, *GROUPS, 'experiment'])} (`tnt-exp train --help` lists all keys.)"
    )


def require_run_overrides(overrides: Iterable[str]) -> None:
    """Raise `UserError` if one of the overrides of a single run belongs to a sweep, or changes the working folder."""
    for text in overrides:
        override = parse_override(text)
        if override.key_or_group.partition(".")[0] in ("sweep", "launcher"):
            raise UserError(f"{text}: expected the flag -m with it (it configures a sweep), received none.")
        if override.key_or_group == "hydra.job.chdir" and override.value():
            raise UserError(
                "hydra.job.chdir=true: expected false: relative paths count from the folder where the command is typed."
            )


def selected_options(override: Override) -> Sequence[Any]:
    """Return the options that an override of a group selects."""
    if override.is_sweep_override():
        return [*override.sweep_string_iterator()] if override.is_discrete_sweep() else []
    value = override.value()
    return value if isinstance(value, list) else [value]
