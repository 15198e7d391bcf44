"""Rules between keys. Everything here is checked before anything slow is imported."""

import re
from collections.abc import Iterator

from tnt_exp.config.dataset import Source
from tnt_exp.config.field import out_of_bounds
from tnt_exp.config.model import HeadWidth
from tnt_exp.config.optimizer import Shape
from tnt_exp.config.schema import Config
from tnt_exp.config.trainer import Compile, Freeze
from tnt_exp.errors import UserError


def validate(config: Config, *, channels: int | None = None, train_images: int | None = None) -> None:
    """Check the bounds of all values and the rules between them.

    Args:
        config: The composed configuration.
        channels: Channels of the images; None if unknown yet.
        train_images: Number of training images; None if unknown yet.

    Raises:
        UserError: One line per broken rule.
    """
    problems = [*_bounds(config)]
    # The rules divide by these values, so they can only be asked once the bounds hold.
    problems = problems or [
        *_model(config),
        *_augmentation(config),
        *_channels(config, channels),
        *_training(config, train_images),
    ]
    if problems:
        raise UserError("\n".join(problems))


def _bounds(config: Config) -> Iterator[str]:
    for key, expected, value in out_of_bounds(config):
        yield f"{key}: expected {expected}, received {value}."


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
    return f" Divisors: {', '.join(str(k) for k in range(1, number + 1) if number % k == 0)}."


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
        numbers = getattr(config.model, key)
        if len(numbers) == 1 or len(numbers) == channels:
            continue
        if channels is None and len(numbers) == 3:
            continue
        what = "one per channel" if channels is None else f"{channels}, one per channel"
        yield f"model.{key}: expected one number or {what}, received {len(numbers)}."
    if channels == 1 and (config.augmentation.saturation or config.augmentation.hue):
        yield "augmentation.saturation, augmentation.hue: expected 0 for grey images, received more."


def _training(config: Config, train_images: int | None) -> Iterator[str]:
    trainer, schedule = config.trainer, config.schedule
    if train_images is not None and trainer.batch_size > train_images:
        yield (
            f"trainer.batch_size: expected at most the {train_images} training images of "
            f"dataset={config.dataset.name.value}, received {trainer.batch_size}."
        )
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
    if config.run.name is not None and not re.fullmatch(r"[\w][\w.-]*", config.run.name):
        yield f"run.name: expected a folder name of letters, digits, '.', '_' and '-', received {config.run.name!r}."
    if config.dataset.name in (Source.image_folder, Source.npz) and config.dataset.path is None:
        yield f"dataset.path: expected a folder or file for dataset={config.dataset.name.value}, received null."
