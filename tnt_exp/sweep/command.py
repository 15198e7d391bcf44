"""How a sweep is spelled on the command line: `sweep.KEY` and `launcher.KEY` are Hydra's `hydra.sweeper.KEY` and
`hydra.launcher.KEY`, so that neither is part of a run's configuration."""

import dataclasses
from collections.abc import Sequence

from hydra.core.override_parser.types import Override

from tnt_exp.config import InputError
from tnt_exp.config.compose import options, parse
from tnt_exp.config.fields import did_you_mean
from tnt_exp.config.sweep import LauncherConfig, SweepConfig

_SECTIONS = {"sweep": ("hydra.sweeper", SweepConfig), "launcher": ("hydra.launcher", LauncherConfig)}


def about_sweeps(override: Override) -> bool:
    """Whether it says how a sweep is run, not what is run."""
    return override.key_or_group.partition(".")[0] in _SECTIONS


def to_hydra(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The overrides as Hydra reads them.

    Args:
        overrides: As typed.
        config_dir: A folder of the user's own groups.

    Raises:
        InputError: A key or an option does not exist, or more than one value was given.
    """
    own = any(text.startswith(("launcher=", "hydra/launcher=")) for text in overrides)
    return [_translated(text, config_dir, foreign_launcher=own) for text in overrides]


def _translated(text: str, config_dir: str | None, *, foreign_launcher: bool) -> str:
    override = parse(text)
    if not about_sweeps(override):
        return text
    if override.is_sweep_override():
        raise InputError(f"{override.key_or_group}: expected one value, received several; a sweep has one of each.")
    section, _, name = override.key_or_group.partition(".")
    value = text.partition("=")[2]
    if not name and section == "sweep":
        offered = [option for option in options("sweep", config_dir) if option != "base_sweep"]
        if value not in offered:
            raise InputError(
                f"sweep={value}: expected one of {', '.join(offered)}; received {value}.{did_you_mean(value, offered)}"
            )
        return f"sweep@hydra.sweeper={value}"
    if not name:
        return f"hydra/launcher={value}"
    package, schema = _SECTIONS[section]
    known = [f"{section}.{field.name}" for field in dataclasses.fields(schema) if field.metadata]
    if override.key_or_group not in known and not (section == "launcher" and foreign_launcher):
        raise InputError(
            f"{override.key_or_group}: expected one of {', '.join(known)}; received an unknown key."
            f"{did_you_mean(override.key_or_group, known)}"
        )
    plus = text[: len(text) - len(text.lstrip("+"))]
    return f"{plus}{package}.{name}={value}"
