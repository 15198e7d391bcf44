"""Rules between keys: each is broken once, and named."""

import pytest

from tnt_exp.config import validation
from tnt_exp.config.compose import compose
from tnt_exp.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.patch_size=3"], ["model.patch_size", "divisor", "received 3", "Divisors: 1, 2, 4, 8."]),
        (["model.image_size=1000000007"], ["model.patch_size", "Divisors: 1, 1000000007."]),
        (["model.image_size=32", "model.patch_size=8", "model.stride=3"], ["model.stride", "received 3"]),
        (["model.num_heads=5"], ["model.embed_dim", "model.num_heads=5"]),
        (["model.inner_num_heads=5"], ["model.inner_dim", "model.inner_num_heads=5"]),
        (["model.depth=2", "model.inner_blocks=[3]"], ["model.inner_blocks", "received 3"]),
        (["model.inner_blocks=[1,1]"], ["model.inner_blocks", "once"]),
        (["model.inner_blocks=[]"], ["model.inner_blocks", "at least one"]),
        (["model.inner_blocks=[0]"], ["model.inner_blocks", ">= 1"]),
        (["model.depth=0"], ["model.depth", ">= 1", "received 0"]),
        (["model.mean=[0.5,0.5]"], ["model.mean", "received 2"]),
        (["model.std=[0]"], ["model.std", "> 0"]),
        (["optimizer.learning_rate=-1"], ["optimizer.learning_rate", "> 0", "received -1"]),
        (["optimizer.learning_rate=nan"], ["optimizer.learning_rate", "> 0", "nan"]),
        (["optimizer.learning_rate=inf"], ["optimizer.learning_rate", "finite", "received inf"]),
        (["model.mean=[inf]"], ["model.mean", "finite", "received [inf]"]),
        (["seed=9223372036854775808"], ["seed", "below 2^63", "received 9223372036854775808."]),
        ([f"trainer.epochs={'9' * 400}"], ["trainer.epochs", "whole one below 2^63", "received 99999", "…99"]),
        (["trainer.batch_size=5000"], ["trainer.batch_size", "training images", "5000"]),
        (
            ["trainer.epochs=2", "optimizer.accumulation=41"],
            ["optimizer.accumulation", "the run's 40 steps", "received 41"],
        ),
        (["trainer.patience=3", "dataset.validation_fraction=0"], ["trainer.patience", "validation", "received 3"]),
        (["schedule.warmup_epochs=40"], ["schedule.warmup_epochs", "trainer.epochs=40"]),
        (["schedule=step", "schedule.step_epochs=[]"], ["schedule.step_epochs"]),
        (["augmentation.crop_scale=[0.9,0.1]"], ["augmentation.crop_scale", "smallest"]),
        (["augmentation.mix_off_epochs=41"], ["augmentation.mix_off_epochs", "trainer.epochs=40"]),
        (["augmentation.repeats=3"], ["trainer.batch_size", "multiple", "augmentation.repeats=3", "received 64"]),
        (["augmentation.saturation=0.5"], ["augmentation.saturation", "grey"]),
        (["trainer.layer_decay=0.5"], ["trainer.layer_decay", "model.weights"]),
        (["trainer.freeze=backbone"], ["trainer.freeze", "model.weights"]),
        (["dataset=npz"], ["dataset.path", "null"]),
        (["seed=-1"], ["seed", ">= 0"]),
        (["trainer.backend=jax", "trainer.xla=never"], ["trainer.xla", "jax"]),
        (["trainer.backend=torch", "trainer.xla=always"], ["trainer.xla", "torch"]),
        (["trainer.deterministic=true", "trainer.xla=always"], ["trainer.deterministic"]),
        (["trainer.class_weights=some"], ["trainer.class_weights", "balanced", "received some"]),
        (["trainer.class_weights=null"], ["trainer.class_weights", "received None"]),
        (["trainer.class_weights={a:-1}"], ["trainer.class_weights", "at least 0"]),
        (["trainer.class_weights={a:inf}"], ["trainer.class_weights", "at least 0"]),
        (["trainer.class_weights={a:much}"], ["trainer.class_weights", "numbers"]),
        (["trainer.class_weights='{ä:much}'"], ["trainer.class_weights", "numbers", "received {'ä': 'much'}"]),
        (["trainer.class_weights='{ä'"], ["trainer.class_weights", "numbers", "received {ä"]),
        (["trainer.class_weights={}"], ["trainer.class_weights", "received {}"]),
    ],
)
def test_broken_rule_is_named(overrides: list[str], words: list[str]) -> None:
    config = compose(["model.image_size=8", "model.patch_size=4", "model.stride=2", *overrides])
    with pytest.raises(UserError) as caught:
        validation.validate(config, channels=1, train_images=1294)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_patience_and_accumulation_have_what_they_need() -> None:
    keys = ["model=tiny", "trainer.epochs=2", "trainer.patience=3", "optimizer.accumulation=40"]
    validation.validate(compose(keys), channels=1, train_images=1294)
    # Such data may have a validation part of their own.
    own = ["dataset=npz", "dataset.path=some.npz", "dataset.validation_fraction=0"]
    validation.validate(compose([*keys, *own]), channels=1, train_images=1294)


def test_several_broken_rules_are_all_named() -> None:
    config = compose(["model.depth=0", "trainer.epochs=0", "seed=-3"])
    with pytest.raises(UserError) as caught:
        validation.validate(config)
    assert len(str(caught.value).splitlines()) == 3
