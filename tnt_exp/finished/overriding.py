"""A finished run's configuration, with another dataset or device."""

from collections.abc import Sequence
from dataclasses import replace

from tnt_exp.config import Config, InputError, rules
from tnt_exp.config.compose import compose, parse

_SECTIONS = ("dataset", "trainer")  # what can be said anew of a model that is trained


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """The configuration with `dataset=...`, `dataset.KEY=...` and `trainer.KEY=...` in place.

    Raises:
        InputError: An unknown key, a wrong value, or a section that a trained model has behind it.
    """
    keys = [parse(text).key_or_group for text in overrides]
    for text, key in zip(overrides, keys, strict=True):
        if key.partition(".")[0] not in _SECTIONS:
            raise InputError(f"{text}: expected dataset=..., dataset.KEY=... or trainer.KEY=... for a finished run.")
    said = compose(overrides)
    changed = replace(config)
    for key in sorted(keys, key=lambda key: "." in key):  # a whole section first, then values in it
        section, _, field = key.partition(".")
        whole = getattr(said, section)
        new = replace(getattr(changed, section), **{field: getattr(whole, field)}) if field else whole
        setattr(changed, section, new)
    rules.check(changed)
    return changed
