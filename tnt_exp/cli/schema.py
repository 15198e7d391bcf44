"""`tnt-exp schema`: print the JSON Schema of YAML files, for editors."""

import json
from collections.abc import Sequence

from tnt_exp.cli import ArgumentParser
from tnt_exp.config.json_schema import SCHEMAS, json_schema
from tnt_exp.config.keys import did_you_mean
from tnt_exp.errors import UserError


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
