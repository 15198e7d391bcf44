"""What is swept: from overrides to points."""

import itertools
from collections.abc import Mapping, Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from tnt_exp.config import InputError
from tnt_exp.config.compose import parse
from tnt_exp.sweep.command import about_sweeps
from tnt_exp.sweep.point import Candidate


class Space:
    """Overrides, some of them with more than one value.

    Args:
        overrides: As on the command line; of two for one key the last counts.
        declared: Swept keys of `conf/sweep/*.yaml` and their values; the command line takes their place.
        loader: Knows the options that `model=glob(*)` means.

    Attributes:
        fixed: Key: the override that every point has.
        swept: Key: the override with more than one value.
    """

    def __init__(self, overrides: Sequence[str], declared: Mapping[str, str], loader: ConfigLoader) -> None:
        self.fixed: dict[str, str] = {}
        self.swept: dict[str, Override] = {}
        for text in [*(f"{key}={value}" for key, value in declared.items()), *overrides]:
            parse(text)  # for its one clear line
            (override,) = OverridesParser.create(config_loader=loader).parse_overrides([text])
            if about_sweeps(override):
                continue
            key = override.get_key_element()
            self.fixed.pop(key, None)
            self.swept.pop(key, None)
            if override.is_sweep_override():
                self.swept[key] = override
            else:
                self.fixed[key] = f"{key}={override.get_value_element_as_str()}"

    def grid(self) -> list[Candidate]:
        """Every combination, the last key fastest.

        Raises:
            InputError: A key has an interval, which has no list of values.
        """
        for key, override in self.swept.items():
            if not override.is_discrete_sweep():
                raise InputError(
                    f"{key}: expected a list or range of values for a grid, received {self.text(key)}. "
                    "Intervals are for a search: sweep=random or sweep=bayes."
                )
        values = [self.values(key) for key in self.swept]
        return [self.candidate(dict(zip(self.swept, chosen, strict=True))) for chosen in itertools.product(*values)]

    def candidate(self, chosen: Mapping[str, str]) -> Candidate:
        """The point with these values of the swept keys."""
        return Candidate([*self.fixed.values(), *(f"{key}={value}" for key, value in chosen.items())], dict(chosen))

    def values(self, key: str) -> list[str]:
        """The values of a discrete key, as they are written in an override."""
        return [str(value) for value in self.swept[key].sweep_string_iterator()]

    def text(self, key: str) -> str:
        """The values of a key, as they were typed."""
        return (self.swept[key].input_line or "").partition("=")[2]
