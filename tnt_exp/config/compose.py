"""From YAML groups and overrides to a typed, checked `Config`."""

import itertools
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import hydra
import yaml
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from tnt_exp.config.keys import config_keys, did_you_mean, find_key
from tnt_exp.config.overrides import is_hydra_override, literal_overrides, parse_override, selected_options, unknown_key
from tnt_exp.config.schema import GROUPS, Config
from tnt_exp.config.sweep import LauncherConfig, SweepConfig
from tnt_exp.config.trainer import Resume
from tnt_exp.credentials import without_password
from tnt_exp.errors import UserError, first_line
from tnt_exp.formatting import as_number

CONFIG_NAME = "train"
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # that of libyaml takes a sixth of the time


def conf_dir() -> Path:
    """Return the folder of the shipped configuration: in the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register() -> None:
    """Register the schema with Hydra, as `base_config` and `base_<group>`, and the resolvers for run folder names."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for group, section in GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=section)
    store.store(group="sweep", name="base_sweep", node=SweepConfig)
    store.store(group="hydra/launcher", name="local", node=LauncherConfig)
    # Cached, so that one command has one id; random, because time stamps of parallel commands can be equal.
    OmegaConf.register_new_resolver("run_id", lambda: secrets.token_hex(3), use_cache=True, replace=True)
    OmegaConf.register_new_resolver("run_folder", run_folder, use_cache=True, replace=True)


def run_folder(name: str | None, resume: Resume, unnamed: str) -> str:
    """Return the folder of a run: its name, or a new name if it has none or must not be continued."""
    if name is None:
        return unnamed
    if resume is not Resume.never:
        return name
    taken = {folder.name for folder in Path("multirun/runs").glob("*")}
    beside = (f"{name}-{number}" for number in itertools.count(2))
    return next(free for free in itertools.chain([name], beside) if free not in taken)


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> Config:
    """Compose, convert and type-check; the rules between keys are in `tnt_exp.config.validation`.

    `config_dir` is the folder of the user's own config groups, searched before the shipped ones. Raises `UserError` if
    a key, a group, an option or a value is wrong.
    """
    return to_config(compose_cfg(overrides, config_dir))


def compose_cfg(overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """Return what Hydra composes, or raise `UserError`: a key, a group or an option is wrong. Types are not checked."""
    register()
    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir={config_dir}: expected a folder with config groups, found none; correct it.")
    overrides = literal_overrides(overrides)
    parsed = [parse_override(override) for override in overrides]
    for override in parsed:
        check_override_key(override, config_dir)
    # hydra.* decides where a run goes; Hydra reads it elsewhere, and compose() would refuse it.
    own = [text for text, override in zip(overrides, parsed, strict=True) if not is_hydra_override(override)]
    running = GlobalHydra.instance().hydra  # that of a sweep, whose trials are composed here
    try:
        main_hydra(config_dir)
        return hydra.compose(CONFIG_NAME, overrides=own)
    except (HydraException, OmegaConfBaseException, OverflowError) as error:
        raise to_user_error(error) from error
    finally:
        GlobalHydra.instance().hydra = running


def main_hydra(config_dir: str | None) -> Hydra:
    """Return a new global Hydra; `hydra.main` would turn every error into a traceback."""
    hydra.version.setbase("1.3")
    search_path = create_config_search_path(str(conf_dir()))
    if config_dir:
        search_path.prepend("command-line", f"file://{Path(config_dir).resolve()}")
    GlobalHydra.instance().clear()
    return Hydra.create_main_hydra2("train", search_path)


def to_config(cfg: DictConfig) -> Config:
    """Return the typed configuration, or raise `UserError`: a mandatory value is missing, or one has a wrong type."""
    try:
        missing = OmegaConf.missing_keys(cfg)
        if missing:
            raise UserError(f"{min(missing)}: expected a value, received none (???). Give it as {min(missing)}=VALUE.")
        config = cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), cfg)))
    except (OmegaConfBaseException, OverflowError) as error:  # a float of 400 digits
        raise to_user_error(error) from error
    if config.dataset.path is not None and len(config.dataset.path) > 1:
        config.dataset.path = config.dataset.path.rstrip("/")  # photos/ is photos
    weights = config.trainer.class_weights
    if isinstance(weights, str) and weights.startswith("{"):  # as text, for names that Hydra's grammar does not take
        weights = config.trainer.class_weights = _read_weights(weights)
    if isinstance(weights, dict):  # names such as 0 and 1 are read as numbers
        config.trainer.class_weights = {str(name): weight for name, weight in weights.items()}
    if config.tracking.uri is not None:
        config.tracking.uri = without_password(config.tracking.uri)
    return config


def _read_weights(text: str) -> object:
    """Return `{class: weight, ...}`, read as YAML in which `cat:2` is an item, too; a text that is damaged as it is."""
    try:
        pairs = yaml.load(text, Loader=yaml.BaseLoader).items()  # names stay as typed: 007, yes
    except yaml.YAMLError:
        return text  # the rules refuse it
    items = [name.rpartition(":")[::2] if not weight and ":" in name else (name, weight) for name, weight in pairs]
    return {name: weight if (found := as_number(str(weight))) is None else found for name, weight in items}


# Keys that the first edition did not have: its runs did what the defaults say.
ADDED_KEYS = (
    "trainer.tf32",
    "trainer.distributed",
    "trainer.steps_per_epoch",
    "trainer.class_weights",
    "trainer.monitor",
    "dataset.folds",
    "dataset.fold",
)


def load_config(file: Path) -> Config:
    """Return the configuration in a `config.yaml`, or raise `UserError`: it is missing, damaged or incomplete."""
    advice = (
        "Restore it from the artifact of its MLflow run, or write it again: tnt-exp train OVERRIDES --cfg job > "
        f"{file}, with the overrides in overrides.yaml."
    )
    try:
        values = yaml.load(file.read_text("utf-8"), Loader=YAML_LOADER)
        cfg = OmegaConf.create(values)
    except FileNotFoundError:
        raise UserError(f"{file}: expected the configuration of a run, found none. {advice}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        reason = first_line(error)
        raise UserError(f"{file}: expected the configuration of a run, received damage: {reason}. {advice}") from error
    if not isinstance(cfg, DictConfig) or not cfg:
        raise UserError(f"{file}: expected a configuration, received {type(values).__name__}. {advice}")
    # The file is written without interpolations; resolving one could read the environment of whoever opens the run.
    if "${" in str(values):
        raise UserError(f"{file}: expected plain values, received an interpolation (${{...}}).")
    try:
        config = to_config(cfg)
    except UserError as error:
        raise UserError(f"{file}: {error} {advice}") from error
    absent = object()
    required = [field.key for field in config_keys() if field.key not in ADDED_KEYS]
    missing = [key for key in required if OmegaConf.select(cfg, key, default=absent) is absent]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(
            f"{file}: expected every key of the configuration, received none for {missing[0]}{others}: the file was "
            f"cut, or is of another version. {advice}"
        )
    return config


def options(group: str, config_dir: str | None = None) -> list[str]:
    """Return the options of a group, from the shipped folder and the user's own."""
    folders = [conf_dir()] + ([Path(config_dir)] if config_dir else [])
    return sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})


def check_override_key(override: Override, config_dir: str | None = None) -> None:
    """Raise `UserError` if the override's key, group or option does not exist."""
    name = override.key_or_group
    if is_hydra_override(override):
        return
    if override.is_delete():
        raise UserError(f"~{name}: expected KEY=VALUE, received a deletion; every key has a value here.")
    if name in (*GROUPS, "experiment"):
        offered = options(name, config_dir)
        for value in selected_options(override):
            if value not in offered and not (value is None and name == "experiment"):
                received = "null" if value is None else value
                raise UserError(
                    f"{name}={received}: expected one of {', '.join(offered)}; received {received}."
                    f"{did_you_mean(str(value), offered)}"
                )
        return
    if find_key(name) is None:
        raise UserError(unknown_key(name))
    if override.is_add():
        raise UserError(f"+{name}: expected a new key, but this one exists. Write {name}=VALUE without the +.")


def to_user_error(error: Exception) -> UserError:
    """Return a composition error as one line: key, expected, received, what to do."""
    cause: BaseException = error
    while cause.__cause__ is not None and isinstance(cause, ConfigCompositionException):
        cause = cause.__cause__
    text = str(cause)
    # Hydra may begin with the file in which it happened.
    lines = [line for line in text.splitlines() if line.strip() and not line.endswith("raised while composing config:")]
    first = lines[0] if lines else type(cause).__name__
    ambiguous = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", first)
    if ambiguous:
        return UserError(
            f"{ambiguous[1]}: expected one value, received {ambiguous[2]}. Add -m to run every value, or write "
            f"[{ambiguous[2]}] for a list."
        )
    if "`_target_`" in first or "'dry_run' is not in struct" in first:
        return UserError("sweep: expected a file with defaults: [random, _self_] (or grid, bayes), received none.")
    full_key = re.search(r"full_key: (\S+)", text)
    key = full_key[1] if full_key else (getattr(cause, "full_key", None) or "")
    key = key.replace("hydra.sweeper.", "sweep.").replace("hydra.launcher.", "launcher.")
    known = [*config_keys(), *config_keys(SweepConfig, "sweep."), *config_keys(LauncherConfig, "launcher.")]
    field = next((each for each in known if each.key == re.sub(r"\[\d+\]$", "", key)), None)
    if isinstance(cause, InterpolationResolutionError | InterpolationKeyError):
        return UserError(f"{key}: expected an interpolation (${{...}}) that can be resolved; {first}.")
    if field is not None:
        quoted = re.search(r"[Vv]alue '([^']*)'", first)
        received = repr(quoted[1]) if quoted else "null" if "not Optional" in first else first
        return UserError(f"{key}: expected {field.expects} ({field.doc}), received {received}.")
    if key:
        return UserError(unknown_key(key))
    if missing := re.match(r"(?:Could not find|In .*: Could not find|Could not override) '(hydra/\w+)/?(\w*)'", first):
        return UserError(_no_plugin(missing[1], missing[2]))
    if inside := re.match(r"In '(experiment/[^']+)': Could not override '\w+@experiment\.", first):
        return UserError(f"{inside[1]}.yaml: expected '# @package _global_' as its first line, received another one.")
    return UserError(first)


def _no_plugin(group: str, option: str) -> str:
    """Return one line about a sweeper or launcher of Hydra that is not installed."""
    instead = {
        "hydra/sweeper": "grids need no option, searches are sweep=bayes and sweep=random (docs/sweeps.md)",
        "hydra/launcher": "several runs at once on this machine are launcher.slots=N, clusters are launcher=ray and "
        "launcher=submitit_slurm (docs/clusters.md)",
    }.get(group, "see docs/configuration.md")
    return f"{group}={option}: expected an installed plugin, found none. Here {instead}."
