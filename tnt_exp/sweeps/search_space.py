"""What is swept: from overrides on the command line to trials of a grid and to Optuna's distributions.

On the command line `sweep.KEY` and `launcher.KEY` stand for Hydra's `hydra.sweeper.KEY` and `hydra.launcher.KEY`, so
that neither is part of a run's configuration.
"""

import csv
import dataclasses
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep

from tnt_exp.config.compose import check_override_key, options
from tnt_exp.config.keys import did_you_mean
from tnt_exp.config.overrides import literal_overrides, parse_override
from tnt_exp.config.sweep import LauncherConfig, SweepConfig
from tnt_exp.errors import UserError, first_line
from tnt_exp.sweeps.trial import TrialSpec

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_SECTIONS = {"sweep": ("hydra.sweeper", SweepConfig), "launcher": ("hydra.launcher", LauncherConfig)}


def is_sweep_override(override: Override) -> bool:
    """Return True if the override configures the sweep or the launcher, not the run."""
    return override.key_or_group.partition(".")[0] in _SECTIONS


def to_hydra_overrides(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Translate `sweep.KEY` and `launcher.KEY`, as typed, for Hydra; raise `UserError` for a wrong key or value."""
    own = any(text.startswith(("launcher=", "hydra/launcher=")) for text in overrides)
    return [_translated(text, config_dir, foreign_launcher=own) for text in overrides]


def _translated(text: str, config_dir: str | None, *, foreign_launcher: bool) -> str:
    override = parse_override(text)
    if not is_sweep_override(override):
        return text
    if override.is_sweep_override():
        raise UserError(f"{override.key_or_group}: expected one value, received several; a sweep has one of each.")
    section, _, name = override.key_or_group.partition(".")
    value = text.partition("=")[2]
    if not name and section == "sweep":
        offered = [option for option in options("sweep", config_dir) if option != "base_sweep"]
        if value not in offered:
            raise UserError(f"sweep={value}: expected one of {', '.join(offered)}.{did_you_mean(value, offered)}")
        return f"sweep@hydra.sweeper={value}"
    if not name:
        return f"hydra/launcher={value}"
    package, schema = _SECTIONS[section]
    known = [f"{section}.{field.name}" for field in dataclasses.fields(schema) if field.metadata]
    if override.key_or_group not in known and not (section == "launcher" and foreign_launcher):
        raise UserError(
            f"{override.key_or_group}: expected one of {', '.join(known)}; received an unknown key."
            f"{did_you_mean(override.key_or_group, known)}"
        )
    plus = text[: len(text) - len(text.lstrip("+"))]
    return f"{plus}{package}.{name}={value}"


def make_distribution(key: str, override: Override) -> "BaseDistribution":
    """Return the Optuna distribution of a key, or raise `UserError` if its values cannot be sampled.

    `a,b,c` is a categorical distribution, `range(...)` one of ordered numbers, `interval(...)` one of real numbers
    (`int(interval(...))`: integers); `tag(log,...)` makes it logarithmic.
    """
    # Here, because Hydra imports every plugin, the sweeper among them, at the start of each run.
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = override.value()
    if isinstance(values, IntervalSweep):
        low, high = values.start, values.end
        log = "log" in values.tags
        if low is None or high is None or low >= high or (log and low <= 0):
            expected = "0 < low < high" if log else "low < high"
            raise UserError(f"{key}: expected interval(low,high) with {expected}, received {override.input_line}.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        return FloatDistribution(low, high, log=log)
    if isinstance(values, RangeSweep) and override.is_discrete_sweep():
        numbers = [float(value) for value in override.sweep_string_iterator()]
        if not numbers:
            raise UserError(f"{key}: expected at least one value, received {override.input_line}.")
        low, high, step = min(numbers), max(numbers), abs(float(values.step))
        if all(number.is_integer() for number in numbers):
            return IntDistribution(int(low), int(high), step=int(step) if step >= 1 else 1)
        return FloatDistribution(low, high, step=step)
    if isinstance(values, ChoiceSweep) or override.is_discrete_sweep():
        return CategoricalDistribution([str(value) for value in override.sweep_string_iterator()])
    raise UserError(f"{key}: expected a list, range(...) or interval(...), received {override.input_line}.")


class SearchSpace:
    """Overrides, some of them with more than one value.

    Args:
        overrides: As on the command line; of two for one key the last one counts.
        declared: Swept keys and their values in `conf/sweep/*.yaml`; the command line overrides them.
        loader: Resolves `model=glob(*)`.
    """

    def __init__(self, overrides: Sequence[str], declared: Mapping[str, str], loader: ConfigLoader) -> None:
        self.fixed: dict[str, str] = {}  # key: the override that every trial has
        self.swept: dict[str, Override] = {}  # key: the override with more than one value
        for text in [*(f"{key}={value}" for key, value in declared.items()), *overrides]:
            parse_override(text)  # raises a clear error
            (override,) = OverridesParser.create(config_loader=loader).parse_overrides([text])
            if is_sweep_override(override):
                continue
            key = override.get_key_element()
            self.fixed.pop(key, None)
            self.swept.pop(key, None)
            if override.is_sweep_override():
                self.swept[key] = override
            else:
                self.fixed[key] = f"{key}={override.get_value_element_as_str()}"

    def grid(self, points: Sequence[Mapping[str, str]] = ({},), *, zipped: bool = False) -> list[TrialSpec]:
        """Return every combination of a point with values of the swept keys; the last key varies fastest.

        Points are further keys and their values (see `read_points`). With `zipped`, the first values of all swept keys
        are combined, then the second ones, and so on.

        Raises:
            UserError: A key has an interval, which has no list of values, or lists to be zipped differ in length.
        """
        for key, override in self.swept.items():
            if not override.is_discrete_sweep():
                raise UserError(
                    f"{key}: expected a list or range of values for a grid, received {self.text(key)}. "
                    "Intervals are for a search: sweep=random or sweep=bayes."
                )
        values = [self.values(key) for key in self.swept]
        if zipped and len(set(map(len, values))) > 1:
            lengths = ", ".join(f"{len(found)} for {key}" for key, found in zip(self.swept, values, strict=True))
            raise UserError(f"sweep=zip: expected lists of equal length, received {lengths}.")
        combined = list(zip(*values, strict=True) if zipped and values else itertools.product(*values))
        return [
            self.spec({**point, **dict(zip(self.swept, chosen, strict=True))})
            for point in points
            for chosen in combined
        ]

    def spec(self, chosen: Mapping[str, str]) -> TrialSpec:
        """Return the trial with these values of the swept keys."""
        return TrialSpec([*self.fixed.values(), *(f"{key}={value}" for key, value in chosen.items())], dict(chosen))

    def values(self, key: str) -> list[str]:
        """Return the values of a discrete key, as they are written in an override."""
        return [str(value) for value in self.swept[key].sweep_string_iterator()]

    def text(self, key: str) -> str:
        """Return the values of a key, as typed."""
        return (self.swept[key].input_line or "").partition("=")[2]


def read_points(file: Path, config_dir: str | None, given: Collection[str]) -> list[dict[str, str]]:
    """Return the keys and values of each row of a table of trials; a key with an empty cell is not set by its row.

    The first row of the CSV file names keys; rows without any text are skipped. `given` are keys that the command sets,
    which the table must not set.

    Raises:
        UserError: The file cannot be read, a key is unknown or given twice, or a cell is no value.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"sweep.points={file}: expected a CSV file, received: {first_line(error)}.") from error
    rows = [(number, row) for number, row in rows if any(row)]
    if len(rows) < 2:
        raise UserError(f"sweep.points={file}: expected a row of keys and a row per trial, received {len(rows)} rows.")
    (_, header), *body = rows
    for key in header:
        if header.count(key) > 1 or key in given:
            where = "two columns" if header.count(key) > 1 else "the command, too"
            raise UserError(f"sweep.points={file}: expected {key} once, received it in {where}; remove one.")
    return [_point(f"sweep.points={file}, line {number}", header, row, config_dir) for number, row in body]


def _point(place: str, header: list[str], row: list[str], config_dir: str | None) -> dict[str, str]:
    if len(row) != len(header):
        raise UserError(f"{place}: expected {len(header)} cells, as in the first line, received {len(row)}.")
    found = {}
    for text in literal_overrides(f"{key}={cell}" for key, cell in zip(header, row, strict=True) if cell):
        try:
            override = parse_override(text)
            if is_sweep_override(override) or override.is_sweep_override():
                raise UserError(f"{text}: expected a key of a run with one value, received another.")
            check_override_key(override, config_dir)
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        key, _, found_value = text.partition("=")
        found[key] = found_value
    return found
