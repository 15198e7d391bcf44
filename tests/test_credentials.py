"""Passwords of addresses go to the environment, and nowhere else."""

import os

import pytest

from tnt_exp.config.compose import compose
from tnt_exp.credentials import hide_passwords, without_password, without_passwords


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.mark.parametrize(
    ("address", "without", "variables"),
    [
        (
            "http://user:s%40cret@host:5000",
            "http://host:5000",
            {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "s@cret"},
        ),
        (
            "http://user:p@ss@host:5000",
            "http://host:5000",
            {"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "p@ss"},
        ),
        ("https://abc123@host/path", "https://host/path", {"MLFLOW_TRACKING_TOKEN": "abc123"}),
        ("postgresql://user:pw@host/db", "postgresql://user@host/db", {"PGPASSWORD": "pw"}),
        ("postgresql+psycopg2://user:pw@host/db?a=1", "postgresql+psycopg2://user@host/db?a=1", {"PGPASSWORD": "pw"}),
        ("postgresql://host/db?user=u&password=pw", "postgresql://host/db?user=u", {"PGPASSWORD": "pw"}),
        ("postgresql://host/db?password=pw&user=u", "postgresql://host/db?user=u", {"PGPASSWORD": "pw"}),
        ("mysql://user:pw@host/db", "mysql://user@host/db", {"MYSQL_PWD": "pw"}),
        ("http://host:5000", "http://host:5000", {}),
        ("sqlite:///a@b.db", "sqlite:///a@b.db", {}),
    ],
)
def test_a_password_moves_to_the_environment(address: str, without: str, variables: dict[str, str]) -> None:
    before = dict(os.environ)
    assert without_password(address) == without
    assert {name: value for name, value in os.environ.items() if before.get(name) != value} == variables


def test_the_configuration_never_holds_it() -> None:
    assert compose(["tracking.uri=http://user:pw@host:5000"]).tracking.uri == "http://host:5000"


def test_arguments_and_messages_never_show_it() -> None:
    typed = ["tracking.uri='http://user:pw@host:5000'", "model.depth=2"]
    assert without_passwords(typed) == ["tracking.uri='http://host:5000'", "model.depth=2"]
    text = hide_passwords("cannot reach http://user:pw@host and postgresql://u:pw2@h/d?password=pw3")
    assert "pw" not in text.replace("password", "")
