"""Compose and validate every trial of a sweep before the first one runs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tnt_exp.config import GROUPS, Config
from tnt_exp.config.compose import check_override_key, compose_cfg, to_config, to_user_error
from tnt_exp.config.overrides import parse_override
from tnt_exp.config.trainer import Distributed
from tnt_exp.errors import UserError
from tnt_exp.formatting import format_params
from tnt_exp.preflight import preflight
from tnt_exp.sweeps.trial import TrialSpec, config_hash


class TrialComposer:
    """Composes the configurations of trials, like `tnt_exp.config.compose.compose`.

    Hydra reads and merges the config groups first, then sets single values. The first part takes nearly all of the time
    (0.2 s on one core), so it is cached for each choice of groups. `config_dir` has the user's own config groups.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        self._config_dir = config_dir
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __call__(self, overrides: Sequence[str]) -> Config:
        """Compose one trial; raise `UserError` if a key, a group, an option or a value is wrong."""
        groups, values = [], []
        for text in overrides:
            override = parse_override(text)
            check_override_key(override, self._config_dir)
            if override.key_or_group in (*GROUPS, "experiment"):
                groups.append(text)
            else:
                values.append(override)
        key = tuple(groups)
        if key not in self._composed:
            self._composed[key] = compose_cfg(groups, self._config_dir)
        cfg = self._composed[key].copy()
        try:
            # Hydra 1.3.8 has no public function for this.
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except (HydraException, OmegaConfBaseException) as error:
            raise to_user_error(error) from error
        config = to_config(cfg)
        if config.trainer.distributed is Distributed.auto:
            raise UserError("trainer.distributed: expected none in a sweep (each trial is one process), received auto.")
        return config


@dataclass
class Plan:
    """The trials that will be added to a sweep, composed and validated, and those that will not."""

    trials: list[tuple[TrialSpec, Config]] = field(default_factory=list)
    duplicates: list[TrialSpec] = field(default_factory=list)  # with the configuration of an earlier one
    invalid: list[tuple[TrialSpec, str]] = field(default_factory=list)  # cannot run, and why

    def error_message(self) -> str:
        """Return one line for each fault of each trial that cannot run."""
        lines: dict[str, None] = {}
        for spec, reason in self.invalid:
            label = format_params(spec.params)
            for line in reason.splitlines():
                lines[f"{line} (trial {label})" if label else line] = None
        return "\n".join(lines)


def plan_trials(specs: Iterable[TrialSpec], compose: TrialComposer, known: Iterable[str] = ()) -> Plan:
    """Compose and validate trials; `known` are hashes of the configurations that the sweep already has."""
    result, hashes = Plan(), set(known)
    for spec in specs:
        try:
            config = compose(spec.overrides)
            preflight(config)
        except UserError as error:
            result.invalid.append((spec, str(error)))
            continue
        digest = config_hash(config)
        if digest in hashes:
            result.duplicates.append(spec)
            continue
        hashes.add(digest)
        result.trials.append((spec, config))
    return result
