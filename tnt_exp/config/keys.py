"""The schema as a list of keys: what each expects, and which one a misspelt key means."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any

from tnt_exp.config.schema import Config


@dataclasses.dataclass(frozen=True)
class ConfigKey:
    """One key of the configuration."""

    key: str
    type: Any
    default: Any
    doc: str
    bounds: Mapping[str, float]

    @property
    def expects(self) -> str:
        """What a value must be, in words."""
        return _words(self.type)


def config_keys(section: type = Config, prefix: str = "") -> Iterator[ConfigKey]:
    """Yield every key of the schema or of one of its sections, in order, without Hydra's own (`_target_`)."""
    hints = typing.get_type_hints(section)
    default = section()
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from config_keys(hints[field.name], f"{prefix}{field.name}.")
        elif not field.name.startswith("_"):
            yield ConfigKey(prefix + field.name, hints[field.name], getattr(default, field.name), **field.metadata)


def find_key(key: str) -> ConfigKey | None:
    """Return a key by its dotted name, or None."""
    return next((field for field in config_keys() if field.key == key), None)


def _words(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return f"{_words(kinds[0])}, or null"
    if typing.get_origin(hint) is dict:
        return "keys, each with a value"
    if typing.get_origin(hint) is list:
        return f"a list such as [a, b], each {_words(typing.get_args(hint)[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(member.name for member in hint)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "text or keys"}[hint]


# What other frameworks call a key.
_ALIASES = {
    "optimizer.learning_rate": "lr base_lr max_lr init_lr step_size",
    "optimizer.weight_decay": "wd l2 weight-decay",
    "optimizer.clip_norm": "clip grad_clip gradient_clip gradient_clip_val max_grad_norm clipnorm global_clipnorm",
    "optimizer.accumulation": "accumulate_grad_batches gradient_accumulation_steps grad_accum accum_steps",
    "schedule.warmup_epochs": "warmup warmup_steps",
    "trainer.batch_size": "bs batch train_batch_size per_device_train_batch_size",
    "trainer.epochs": "max_epochs num_epochs n_epochs num_train_epochs",
    "trainer.patience": "early_stopping early_stop",
    "trainer.precision": "amp fp16 bf16 mixed_precision dtype",
    "trainer": "gpu cuda device accelerator",
    "dataset.path": "dir root folder data data_dir data_path dataset_dir directory",
    "dataset.validation_fraction": "val_split validation_split val_fraction",
    "dataset.image_size": "img_size imgsz input_size resolution",
    "model.embed_dim": "width dim hidden_size hidden_dim d_model",
    "model.depth": "layers num_layers n_layers blocks",
    "model.num_heads": "heads n_heads nhead",
    "model.mlp_dropout": "dropout drop_rate",
    "model.weights": "pretrained checkpoint ckpt ckpt_path init_from",
    "augmentation": "transforms transform aug augment",
    "augmentation.horizontal_flip": "flip hflip fliplr random_flip",
    "tracking.uri": "mlflow_uri tracking_uri mlflow_tracking_uri",
    "run.name": "output output_dir out_dir save_dir exp_name",
    "seed": "random_state random_seed manual_seed",
    "schedule": "scheduler lr_scheduler",
}


def closest_match(word: str, names: Iterable[str]) -> str | None:
    """Return the name that `word` most likely means, or None if none is similar."""
    names = list(names)
    section, _, last = word.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == section}
    everywhere = {name.rpartition(".")[2]: name for name in names}
    if last in everywhere:
        return everywhere[last]
    for name, aliases in _ALIASES.items():
        if last in aliases.split() and name in names:
            return name
    # Only the last part is compared: with the same section in front, all keys of a section look similar.
    for candidates, cutoff in ((siblings, 0.6), (everywhere, 0.8)):
        close = difflib.get_close_matches(last, candidates, n=1, cutoff=cutoff)
        if close:
            return candidates[close[0]]
    return None


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return ' Did you mean X?', or nothing."""
    name = closest_match(word, names)
    return f" Did you mean {name}?" if name else ""
