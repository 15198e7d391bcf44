"""The text of `tnt-exp train --help`: flags, groups with their options, and every key with its meaning."""

import shutil
import textwrap

from tnt_exp.config.compose import compose, options
from tnt_exp.config.keys import config_keys
from tnt_exp.config.schema import GROUPS
from tnt_exp.run_folder import flat

_HEAD = """\
Train a Transformer in Transformer, and find the run in MLflow.

usage: tnt-exp train [FLAG ...] [GROUP=OPTION ...] [KEY=VALUE ...]

  tnt-exp train model.depth=8 optimizer.learning_rate=3e-4
  tnt-exp train experiment=cifar100_keras_example
  tnt-exp train -m model.embed_dim=48,64,96           one run per value (docs/sweeps.md)

flags:
  -m, --multirun          run a sweep: one run per combination of values separated by commas
  --dry-run               show the runs of a sweep with their cost, and stop
  --cfg job               print the composed configuration, and stop
  --config-dir FOLDER     groups of your own
  -sc install=bash        print a script for completion: eval "$(tnt-exp train -sc install=bash)"
"""


def help_text(config_dir: str | None = None) -> str:
    """Return the text, as wide as the terminal (at most 120 columns).

    Args:
        config_dir: The folder of the user's own config groups.
    """
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [_HEAD, "groups (GROUP=OPTION):"]
    for group in (*GROUPS, "experiment"):
        offered = [option for option in options(group, config_dir) if not option.startswith("base_")]
        lines += _entry(group, ", ".join(offered), 15, width)
    defaults = flat(compose([], config_dir))
    lines.append("\nkeys (KEY=VALUE), with the value of a plain `tnt-exp train`:")
    for key in config_keys():
        value = defaults[key.key]
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        lines += _entry(key.key, f"{key.doc}; {key.expects} [{shown}]", 35, width)
    return "\n".join(lines)


def _entry(name: str, text: str, indent: int, width: int) -> list[str]:
    """Return a name and its text, wrapped in a column of its own."""
    first = f"  {name} ".ljust(indent)
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * indent, break_on_hyphens=False)
