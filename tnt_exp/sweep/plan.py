"""Compose and check every point before the first one runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tnt_exp.check import check
from tnt_exp.config import Config, InputError
from tnt_exp.sweep.composer import Composer
from tnt_exp.sweep.point import Candidate, hash_of


@dataclass
class Plan:
    """Points that are to be added to a sweep.

    Attributes:
        points: Composed and checked, each once.
        duplicates: Points that came to the same configuration as an earlier one.
        invalid: Points that cannot run, and why.
    """

    points: list[tuple[Candidate, Config]] = field(default_factory=list)
    duplicates: list[Candidate] = field(default_factory=list)
    invalid: list[tuple[Candidate, str]] = field(default_factory=list)

    def complaint(self) -> str:
        """A line for each thing that is wrong with each point that cannot run."""
        lines: dict[str, None] = {}
        for candidate, reason in self.invalid:
            point = " ".join(f"{key}={value}" for key, value in candidate.params.items())
            for line in reason.splitlines():
                lines[f"{line} (point {point})" if point else line] = None
        return "\n".join(lines)


def plan(candidates: Iterable[Candidate], compose: Composer, known: Iterable[str] = ()) -> Plan:
    """Compose and check points.

    Args:
        candidates: The points.
        compose: Composes them.
        known: Hashes of configurations that the sweep has already.
    """
    result, hashes = Plan(), set(known)
    for candidate in candidates:
        try:
            config = compose(candidate.overrides)
            check(config)
        except InputError as error:
            result.invalid.append((candidate, str(error)))
            continue
        digest = hash_of(config)
        if digest in hashes:
            result.duplicates.append(candidate)
            continue
        hashes.add(digest)
        result.points.append((candidate, config))
    return result
