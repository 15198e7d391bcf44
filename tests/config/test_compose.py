"""Composition: what a misspelt or mistyped override says, and what the shipped groups give."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tnt_exp.config import Config, validation
from tnt_exp.config.compose import compose, conf_dir, load_config, options
from tnt_exp.config.keys import closest_match, config_keys
from tnt_exp.errors import UserError
from tnt_exp.run_folder import flat, plain

GROUPS = ["model", "augmentation", "optimizer", "schedule", "dataset", "trainer", "tracking", "experiment"]


@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("model.depht=8", "model.depht", "model.depth"),
        ("modle.depth=8", "modle.depth", "model.depth"),
        ("depth=8", "depth", "model.depth"),
        ("sed=1", "sed", "seed"),
        ("optimizer.learning_rat=1", "optimizer.learning_rat", "optimizer.learning_rate"),
        ("model=keras_exmaple", "model", "keras_example"),
        ("modell=tiny", "modell", "model"),
        ("dataset=cifar1000", "dataset", "cifar100"),
        ("experiment=digitz", "experiment", "digits"),
        ("augmentation.rotaton=3", "augmentation.rotaton", "augmentation.rotation"),
        ("+model.depht=8", "model.depht", "model.depth"),
    ],
)
def test_misspelt_name_is_answered_with_the_nearest(override: str, key: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    message = str(caught.value)
    assert message.startswith(key)
    assert f"Did you mean {hint}?" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.depth=eight", ["model.depth", "whole number", "'eight'"]),
        ("model.depth=", ["model.depth", "whole number", "''"]),
        ("model.depth=1.5", ["model.depth", "whole number", "'1.5'"]),
        ("model.depth=null", ["model.depth", "whole number", "null"]),
        ("model.qkv_bias=perhaps", ["model.qkv_bias", "true or false", "'perhaps'"]),
        ("model.pool=max", ["model.pool", "class_token, average, sequence", "'max'"]),
        ("model.inner_blocks=[1,x]", ["model.inner_blocks", "a whole number", "'x'"]),
        ("model.depth=2,4", ["model.depth", "-m", "2,4"]),
        ("+model.depth=2", ["model.depth", "without the +"]),
        ("~model.depth", ["model.depth", "deletion"]),
        ("model.depth", ["model.depth", "KEY=VALUE"]),
        ("model.depth=[1", ["model.depth=[1", "KEY=VALUE"]),
        (f"schedule.warmup_epochs={'9' * 400}", ["schedule.warmup_epochs", "a number", "too large"]),
        ("experiment=nope", ["experiment=nope", "digits"]),
    ],
)
def test_wrong_value_says_key_expected_and_received(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose([override])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def _outcome(overrides: list[str]) -> str:
    """What a user sees: the message of a refusal, or the configuration."""
    try:
        config = compose(overrides)
        validation.validate(config)
    except UserError as error:
        return str(error).strip()
    return repr(config)


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_any_override_composes_or_is_refused_in_words(text: str) -> None:
    assert _outcome([text])


_NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(300, 400).map(lambda digits: 10**digits)).map(str)


@given(st.sampled_from([field.key for field in config_keys()]), st.text(max_size=12) | _NUMBERS)
@settings(max_examples=150, deadline=None)
def test_any_value_of_any_key_composes_or_is_refused_in_words(key: str, value: str) -> None:
    assert _outcome([f"{key}={value}"])


@pytest.mark.parametrize("group", GROUPS)
def test_every_shipped_option_composes_and_obeys_the_rules(group: str) -> None:
    offered = options(group)
    assert offered
    for option in offered:
        overrides = [f"{group}={option}"]
        if option in ("image_folder", "npz", "photos"):
            overrides.append("dataset.path=somewhere")
        config = compose(overrides)
        validation.validate(config)
        section = getattr(config, group, None)
        if group in ("model", "augmentation") and option != "mixing":  # a part to add to another, without a name
            assert section is not None
            assert section.name == option


def test_every_experiment_opens_with_its_command_and_its_result() -> None:
    for name in options("experiment"):
        text = (conf_dir() / "experiment" / f"{name}.yaml").read_text()
        assert f"tnt-exp train experiment={name}" in text, name
        assert re.search(r"[Rr]esult: ", text), name


def test_no_option_sets_what_the_schema_already_has() -> None:
    """YAML holds only what differs: every value in a group file changes its default or is the group's own name."""
    defaults = flat(Config())
    for group in GROUPS[:-1]:
        for option in options(group):
            composed = flat(compose([f"{group}={option}"]))
            stated = yaml.safe_load((conf_dir() / group / f"{option}.yaml").read_text())
            for key in stated.keys() - {"defaults", "name"}:
                assert composed[f"{group}.{key}"] != defaults[f"{group}.{key}"], f"{group}/{option}: {key}"


def test_user_folder_of_groups_is_found(tmp_path: object) -> None:
    folder = tmp_path / "model"  # type: ignore[operator]
    folder.mkdir()
    (folder / "mine.yaml").write_text("defaults: [base_model, _self_]\ndepth: 3\n")
    assert compose(["model=mine"], str(tmp_path)).model.depth == 3
    (folder / "typo.yaml").write_text("defaults: [base_model, _self_]\ndepht: 3\n")
    with pytest.raises(UserError, match=r"model\.depht.*Did you mean model\.depth\?"):
        compose(["model=typo"], str(tmp_path))


def test_every_key_is_documented() -> None:
    for field in config_keys():
        assert field.doc, field.key
        assert field.expects


def test_nearest_does_not_guess_wildly() -> None:
    keys = [field.key for field in config_keys()]
    assert closest_match("model.foo", keys) is None
    assert closest_match("zzz", keys) is None


def test_saved_configuration_composes_to_itself() -> None:
    from omegaconf import OmegaConf

    from tnt_exp.config.compose import to_config

    config = compose(["experiment=cifar100_keras_example", "model.inner_blocks=[1,3]"])
    assert to_config(OmegaConf.create(plain(config))) == config


def test_a_file_of_the_user_comes_before_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/digits.yaml").write_text("# @package _global_\ntrainer:\n  epochs: 77\n")
    assert compose(["experiment=digits"], str(tmp_path)).trainer.epochs == 77
    assert compose(["experiment=digits"]).trainer.epochs != 77


def test_a_configuration_that_was_cut_is_never_completed_by_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    whole = yaml.safe_dump(plain(compose(["trainer.epochs=60"])), sort_keys=False)
    file.write_text(whole)
    assert load_config(file).trainer.epochs == 60
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("seed:")))
    with pytest.raises(UserError, match=r"received none for seed: the file"):
        load_config(file)
    for count in range(0, len(lines), 7):
        file.write_text("".join(lines[:count]))
        with pytest.raises(UserError, match=r"config\.yaml: .*expected .*--cfg job") as caught:
            load_config(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "!!python/object/apply:os.getenv [SECRET]"])
def test_a_foreign_configuration_runs_and_reads_nothing(
    tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "a password")
    file = tmp_path / "config.yaml"
    text = yaml.safe_dump(plain(compose(["run.name=NAME"])), sort_keys=False)
    file.write_text(text.replace("NAME", value))
    with pytest.raises(UserError, match=r"config\.yaml") as caught:
        load_config(file)
    assert "\n" not in str(caught.value)
    assert "a password" not in str(caught.value)
