"""Rules between keys. Everything here is checked before anything slow is imported."""

import dataclasses
import math
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tnt_exp.config.dataset import Source
from tnt_exp.config.model import HeadWidth
from tnt_exp.config.optimizer import Shape
from tnt_exp.config.schema import Config
from tnt_exp.config.trainer import Compile, Distributed, Freeze, Precision, Resume
from tnt_exp.errors import UserError
from tnt_exp.formatting import shorten

NO_VALIDATION = "trainer.patience: expected null without validation images (see dataset.validation_fraction)"
_COMPARE = {"gt": (">", operator.gt), "ge": (">=", operator.ge), "lt": ("<", operator.lt), "le": ("<=", operator.le)}
_LONGEST_NAME = 200  # bytes of a folder's name, characters of MLflow's names
_LONGEST_PATH = 480  # characters; MLflow keeps an artifact path below it in a column of 512
# Dialect of SQLAlchemy: the package of a driver, and how an address names it.
_DRIVERS = {
    "postgresql": ("'tnt-exp[postgresql]'", "postgresql+psycopg2"),  # 2.1 uses another by default
    "mysql": ("mysqlclient", "mysql"),
    "mssql": ("pyodbc", "mssql"),
}


def validate(config: Config, *, channels: int | None = None, train_images: int | None = None) -> None:
    """Check the bounds of all values and the rules between them; raises `UserError`, one line per broken rule.

    `channels` and `train_images` are those of the data, None if they are not known yet.
    """
    # The rules divide by these values, so they can only be asked once the bounds hold.
    problems = [*_bounds(config)] or [
        *_model(config),
        *_augmentation(config),
        *_channels(config, channels),
        *_training(config, train_images),
        *_distributed(config),
        *_names(config),
        *_tracking(config),
    ]
    if problems:
        raise UserError("\n".join(problems))


def check_bounds(section: Any, prefix: str) -> None:
    """Raise `UserError`, one line per value of a section that is outside its bounds."""
    if problems := [*_bounds(section, prefix)]:
        raise UserError("\n".join(problems))


def _bounds(section: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _bounds(value, f"{prefix}{field.name}.")
        numbers = value if isinstance(value, list) else [value]
        if any(_is_too_large(number) for number in numbers):
            received = shorten(str(value), 40, 10)
            yield f"{prefix}{field.name}: expected a finite number, a whole one below 2^63, received {received}."
            continue
        for kind, bound in field.metadata.get("bounds", {}).items():
            sign, holds = _COMPARE[kind]
            # `not holds` rather than the opposite comparison: NaN satisfies no bound.
            if any(number is not None and not holds(number, bound) for number in numbers):
                key, expected = prefix + field.name, f"{sign} {bound:g}"
                yield f"{key}: expected {expected}, received {value}."


def _is_too_large(value: object) -> bool:
    """Whether a value is infinite, or a whole number that libraries do not take for one."""
    return abs(value) >= 2**63 if isinstance(value, int) else isinstance(value, float) and math.isinf(value)


def _model(config: Config) -> Iterator[str]:
    model = config.model
    if model.image_size % model.patch_size:
        yield (
            f"model.patch_size: expected a divisor of model.image_size={model.image_size}, "
            f"received {model.patch_size}.{_divisors(model.image_size)}"
        )
    elif model.patch_size % model.stride:
        yield (
            f"model.stride: expected a divisor of model.patch_size={model.patch_size}, "
            f"received {model.stride}.{_divisors(model.patch_size)}"
        )
    if model.head_width is HeadWidth.split:
        for width, heads in (("embed_dim", "num_heads"), ("inner_dim", "inner_num_heads")):
            if getattr(model, width) % getattr(model, heads):
                yield (
                    f"model.{width}: expected a multiple of model.{heads}={getattr(model, heads)} "
                    f"(model.head_width=split), received {getattr(model, width)}."
                )
    beyond = [block for block in model.inner_blocks or [] if block > model.depth]
    if beyond:
        yield f"model.inner_blocks: expected blocks from 1 to model.depth={model.depth}, received {beyond[0]}."
    if model.inner_blocks is not None and len(set(model.inner_blocks)) != len(model.inner_blocks):
        yield f"model.inner_blocks: expected each block once, received {model.inner_blocks}."
    if model.inner_blocks == []:
        yield "model.inner_blocks: expected at least one block (null: all), received []."
    if (config.trainer.layer_decay < 1 or config.trainer.freeze is not Freeze.nothing) and model.weights is None:
        yield "model.weights: expected weights to start from with trainer.layer_decay or trainer.freeze, received null."


def _divisors(number: int) -> str:
    small = [k for k in range(1, math.isqrt(number) + 1) if number % k == 0]
    return f" Divisors: {', '.join(map(str, sorted({*small, *(number // k for k in small)})))}."


def _augmentation(config: Config) -> Iterator[str]:
    for key in ("crop_scale", "crop_ratio"):
        pair = getattr(config.augmentation, key)
        if pair is not None and (len(pair) != 2 or pair[0] > pair[1]):
            yield f"augmentation.{key}: expected [smallest, largest], received {pair}."
    if config.trainer.batch_size % config.augmentation.repeats:
        yield (
            f"trainer.batch_size: expected a multiple of augmentation.repeats={config.augmentation.repeats}, "
            f"received {config.trainer.batch_size}."
        )
    if config.augmentation.mix_off_epochs > config.trainer.epochs:
        yield (
            f"augmentation.mix_off_epochs: expected at most trainer.epochs={config.trainer.epochs}, "
            f"received {config.augmentation.mix_off_epochs}."
        )


def _channels(config: Config, channels: int | None) -> Iterator[str]:
    for key in ("mean", "std"):
        count = len(getattr(config.model, key))
        if count not in (1, channels or 3):
            what = "one per channel" if channels is None else f"{channels}, one per channel"
            yield f"model.{key}: expected one number or {what}, received {count}."
    if channels == 1 and (config.augmentation.saturation or config.augmentation.hue):
        yield "augmentation.saturation, augmentation.hue: expected 0 for grey images, received more."


def _training(config: Config, train_images: int | None) -> Iterator[str]:
    trainer, schedule, accumulation = config.trainer, config.schedule, config.optimizer.accumulation
    if train_images is not None and trainer.steps_per_epoch is None and trainer.batch_size > train_images:
        yield (
            f"trainer.batch_size: expected at most the {train_images} training images of "
            f"dataset={config.dataset.name.value}, received {trainer.batch_size}."
        )
    epoch_steps = trainer.steps_per_epoch or (train_images and train_images // trainer.batch_size)
    steps = trainer.epochs * epoch_steps if epoch_steps else None
    if steps and accumulation > steps:
        yield f"optimizer.accumulation: expected at most the run's {steps} steps, received {accumulation}."
    own_validation = config.dataset.name in (Source.image_folder, Source.npz)  # perhaps: `Experiment.train` knows
    if trainer.patience is not None and config.dataset.validation_fraction == 0 and not own_validation:
        yield f"{NO_VALIDATION}, received {trainer.patience}."
    if schedule.warmup_epochs >= trainer.epochs:
        yield (
            f"schedule.warmup_epochs: expected less than trainer.epochs={trainer.epochs}, "
            f"received {schedule.warmup_epochs:g}. For few epochs: schedule.warmup_epochs=0."
        )
    if schedule.name is Shape.step and not schedule.step_epochs:
        yield "schedule.step_epochs: expected at least one epoch for schedule=step, received []."
    if trainer.deterministic and trainer.xla is Compile.always and trainer.backend.value == "tensorflow":
        yield "trainer.deterministic: expected trainer.xla=never or auto with it on TensorFlow, received always."
    backend = trainer.backend.value
    if backend == "torch" and trainer.devices != 1:
        yield (
            "trainer.devices: expected 1 for trainer.backend=torch "
            "(only TensorFlow and JAX divide a batch among devices), "
            f"received {'null' if trainer.devices is None else trainer.devices}."
        )
    if trainer.devices is not None and trainer.batch_size % trainer.devices:
        yield (
            f"trainer.batch_size: expected a multiple of trainer.devices={trainer.devices}, "
            f"received {trainer.batch_size}."
        )
    if backend == "jax" and trainer.xla is Compile.never:
        yield "trainer.xla: expected auto or always for trainer.backend=jax (it always uses XLA), received never."
    if backend == "torch" and trainer.xla is Compile.always:
        yield "trainer.xla: expected auto or never for trainer.backend=torch (it has no XLA), received always."
    if config.dataset.fold >= (config.dataset.folds or 1):
        expected = "0 without dataset.folds" if config.dataset.folds is None else f"0 to {config.dataset.folds - 1}"
        yield f"dataset.fold: expected {expected}, received {config.dataset.fold}."
    if not _are_class_weights(trainer.class_weights):
        yield (
            "trainer.class_weights: expected none, balanced or {class: weight, ...} with numbers of at least 0, "
            f"received {trainer.class_weights}."
        )
    if config.dataset.name in (Source.image_folder, Source.npz) and config.dataset.path is None:
        yield f"dataset.path: expected a folder or file for dataset={config.dataset.name.value}, received null."


def _distributed(config: Config) -> Iterator[str]:
    trainer = config.trainer
    if trainer.distributed is Distributed.none:
        return
    if trainer.backend.value != "jax":
        yield f"trainer.backend: expected jax for trainer.distributed=auto, received {trainer.backend.value}."
    if trainer.precision is Precision.auto:
        yield "trainer.precision: expected one precision for trainer.distributed=auto (machines differ), received auto."
    if config.run.name is None:
        yield "run.name: expected a name for trainer.distributed=auto (to continue the run by it), received null."
    if trainer.resume is Resume.never:
        yield "trainer.resume: expected auto for trainer.distributed=auto, received never. Choose another run.name."


def _are_class_weights(weights: object) -> bool:
    if not isinstance(weights, dict):
        return weights in ("none", "balanced")
    numbers = [weight for weight in weights.values() if type(weight) in (int, float)]
    return 0 < len(numbers) == len(weights) and all(0 <= number < math.inf for number in numbers)


def _names(config: Config) -> Iterator[str]:
    name = config.run.name
    if name is None:
        return
    if not re.fullmatch(r"[\w][\w.-]*", name):
        yield f"run.name: expected a folder name of letters, digits, '.', '_' and '-', received {name!r}."
    elif len(name.encode()) > _LONGEST_NAME:
        yield f"run.name: expected at most {_LONGEST_NAME} bytes, received {len(name.encode())}: {name[:20]}..."


def _tracking(config: Config) -> Iterator[str]:
    tracking = config.tracking
    if not tracking.enabled:
        return
    if not tracking.experiment.strip() or len(tracking.experiment) > _LONGEST_NAME:
        received = tracking.experiment[:20] + "..." if tracking.experiment.strip() else "an empty name"
        yield f"tracking.experiment: expected a name of 1 to {_LONGEST_NAME} characters, received {received}."
    if tracking.run_name is not None and len(tracking.run_name) > _LONGEST_NAME:
        yield (
            f"tracking.run_name: expected at most {_LONGEST_NAME} characters, "
            f"received {len(tracking.run_name)}: {tracking.run_name[:20]}..."
        )
    model = tracking.register
    if model is not None and (not model.strip() or re.search("[/:'\"]", model) or len(model) > _LONGEST_NAME):
        yield (
            f"tracking.register: expected the name of a registered model, 1 to {_LONGEST_NAME} characters without "
            f"quotes, / and :, received {model[:40]!r}."
        )
    if tracking.uri is not None and (problem := store_problem(tracking.uri)) is not None:
        yield f"tracking.uri: {problem}"


def store_problem(uri: str) -> str | None:
    """Return what is wrong with the address of a tracking store, or None; connects to nothing."""
    scheme, sign, rest = uri.partition("://")
    dialect, _, driver = scheme.partition("+")
    if not sign or not scheme:
        return (
            f"expected an address such as sqlite:///mlflow.db or http://host:5000, received {uri!r}. "
            f"A file is written sqlite:///{uri}."
        )
    if dialect in ("http", "https"):
        return None if re.match(r"[^/?#]+", rest) else f"expected {scheme}://HOST:PORT, received {uri}."
    if dialect == "sqlite":
        if not rest.startswith("/") or rest == "/":
            return f"expected sqlite:/// with three slashes and a file, received {uri}. Did you mean sqlite:///{rest}?"
        file = Path(rest[1:]).expanduser()
        if file.is_dir():
            return f"expected a file, received the folder {file}."
        if not file.parent.is_dir() and file.parent.parent != file.parent and file.is_absolute():
            return (
                f"expected a file in an existing folder, received {file}; create {file.parent} first, "
                "or train with tracking=off."
            )
        if len(str(file.absolute())) > _LONGEST_PATH:
            return f"expected a path of at most {_LONGEST_PATH} characters, received {len(str(file.absolute()))}."
        return None
    if dialect not in _DRIVERS:
        return f"expected {', '.join(['sqlite', 'http', 'https', *_DRIVERS])}, received {dialect}://."
    import sqlalchemy  # slow to import; it knows the module of each driver

    try:
        sqlalchemy.make_url(f"{scheme}://").get_dialect().import_dbapi()
    except (ImportError, sqlalchemy.exc.ArgumentError) as error:
        name, (package, written) = driver or getattr(error, "name", None), _DRIVERS[dialect]
        package += f" and write {written}://" if scheme != written else ""
        return f"expected the driver {name} for {scheme}://, which is not installed; pip install {package}"
    return None
