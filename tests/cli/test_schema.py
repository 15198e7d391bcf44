"""The JSON Schema of YAML files, checked by a validator of JSON Schema."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from omegaconf import OmegaConf

from tnt_exp.cli import main
from tnt_exp.cli.schema import SCHEMAS, json_schema
from tnt_exp.config.compose import compose, conf_dir
from tnt_exp.config.keys import config_keys
from tnt_exp.run_folder import plain

FILES = [conf_dir() / "train.yaml", *(file for file in sorted(conf_dir().glob("*/*.yaml")))]


def kind_of(file: Path) -> str:
    return "train" if file.parent.name in ("conf", "experiment") else file.parent.name


def problems(kind: str, values: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(json_schema(kind))
    return [".".join(map(str, error.path)) + ": " + error.message for error in validator.iter_errors(values)]


def read(file: Path) -> Any:
    return OmegaConf.to_container(OmegaConf.load(file))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_schemas_are_valid(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(printed)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_shipped_files_are_valid(file: Path) -> None:
    assert problems(kind_of(file), read(file)) == []


def test_the_configuration_of_a_run_is_valid_and_every_key_is_described() -> None:
    assert problems("train", plain(compose(["trainer.class_weights={a:2.5}", "dataset.folds=5"]))) == []
    for key in config_keys():
        found = json_schema("train")
        for part in key.key.split("."):
            found = found["properties"][part]
        assert found["description"] == key.doc
        assert "default" in found


@pytest.mark.parametrize(
    ("kind", "values", "where"),
    [
        ("model", {"depht": 3}, "'depht'"),
        ("model", {"depth": 0}, "depth"),
        ("model", {"depth": "many"}, "depth"),
        ("model", {"mean": ["grey"]}, "mean"),
        ("trainer", {"xla": "sometimes"}, "xla"),
        ("trainer", {"checkpoint": {"evry": 3}}, "'evry'"),
        ("train", {"model": {"depht": 3}}, "'depht'"),
        ("train", {"trainer": {"label_smoothing": 1.0}}, "label_smoothing"),
        ("train", {"sede": 3}, "'sede'"),
        ("sweep", {"method": "magic"}, "method"),
    ],
)
def test_wrong_values_are_found(kind: str, values: Any, where: str) -> None:
    found = problems(kind, values)
    assert len(found) == 1
    assert where in found[0]


def test_interpolations_and_mandatory_values_are_allowed() -> None:
    assert problems("train", {"model": {"depth": "${model.num_heads}", "embed_dim": "???"}, "defaults": ["x"]}) == []


def test_an_unknown_kind_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "modle"]) == 2
    error = capsys.readouterr().err
    assert "Did you mean model?" in error
    assert len(error.splitlines()) == 1
