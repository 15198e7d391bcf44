"""`tnt-exp schema`: print the JSON Schema of the configuration, with which editors complete and check YAML files."""

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from enum import Enum
from typing import Any

from tnt_exp.atomic_files import JsonObject
from tnt_exp.cli import ArgumentParser
from tnt_exp.config.keys import did_you_mean
from tnt_exp.config.schema import GROUPS, Config
from tnt_exp.config.sweep import SweepConfig
from tnt_exp.errors import UserError

# What a file of `conf/` or of a user may describe: `train` is a whole configuration, as in experiments.
SCHEMAS: dict[str, type] = {"train": Config, **GROUPS, "sweep": SweepConfig}

_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_SCALARS: dict[Any, JsonObject] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": ["string", "number"]},  # the text of a number stays as it is written
    Any: {"type": ["string", "object"]},
    type(None): {"type": "null"},
}
# An interpolation, or a mandatory value.
_LATER = {"type": "string", "pattern": r"^(.*\$\{.+\}.*|\?\?\?)$"}


def json_schema(name: str) -> JsonObject:
    """Return the schema of a YAML file: of an option of a group, of a sweep, or (`train`) of a whole configuration."""
    own = _section(SCHEMAS[name])
    own["properties"]["defaults"] = {
        "type": "array",
        "description": "Hydra's defaults list: what the file begins with, and other options that it chooses",
        "items": {"type": ["string", "object"]},
    }
    if name == "train":
        own["properties"]["hydra"] = {"type": "object", "description": "settings of Hydra"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"tnt-exp: {name}",
        "description": SCHEMAS[name].__doc__,
        **own,
    }


def _section(section: type) -> JsonObject:
    hints, default = typing.get_type_hints(section), section()
    properties = {}
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(hint := hints[field.name]):
            properties[field.name] = _section(typing.cast(type, hint))
        elif not field.name.startswith("_"):
            properties[field.name] = {
                "description": field.metadata["doc"],
                "default": usual.name if isinstance(usual := getattr(default, field.name), Enum) else usual,
                "anyOf": [_value(hint, field.metadata["bounds"]), _LATER],
            }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(hint: Any, bounds: dict[str, float]) -> JsonObject:
    """Return the schema of a value of a type; bounds are those of a number, or of each number of a list."""
    if isinstance(hint, types.UnionType):
        return {"anyOf": [_value(kind, bounds) for kind in typing.get_args(hint)]}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _value(typing.get_args(hint)[0], bounds)}
    if typing.get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _SCALARS[typing.get_args(hint)[1]]}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [member.name for member in hint]}
    found = _SCALARS[hint]
    return {**found, **{_BOUNDS[kind]: bound for kind, bound in bounds.items()}} if hint in (int, float) else found


def main(arguments: Sequence[str]) -> int:
    """Print the schema and return the exit code."""
    parser = ArgumentParser(
        prog="tnt-exp schema",
        description="Print the JSON Schema of a kind of YAML file, for completion and checks in editors.",
    )
    parser.add_argument(
        "kind",
        nargs="?",
        default="train",
        help=f"train: a whole configuration, as in experiment/*.yaml (default); an option of a group or a sweep: "
        f"{', '.join(kind for kind in SCHEMAS if kind != 'train')}",
    )
    kind = parser.parse_args(list(arguments)).kind
    kind = "train" if kind == "experiment" else kind
    if kind not in SCHEMAS:
        raise UserError(
            f"tnt-exp schema {kind}: expected one of {', '.join(SCHEMAS)}, received another."
            f"{did_you_mean(kind, SCHEMAS)}"
        )
    print(json.dumps(json_schema(kind), indent=2))
    return 0
