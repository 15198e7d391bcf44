"""Which version of a registered model is the champion."""

import mlflow
import pytest

from tnt_exp.tracking.models import ALIAS, register


def offer(client: mlflow.MlflowClient, accuracy: float, test_accuracy: float = 0.5) -> bool:
    run = client.create_run("0")
    model = client.create_logged_model("0", name="model", source_run_id=run.info.run_id)
    metrics = {"val/accuracy": accuracy, "test/accuracy": test_accuracy}
    better = register(client, run.info.run_id, model.model_id, "digits", metrics)
    assert register(client, run.info.run_id, model.model_id, "digits", metrics) is False  # nothing is registered twice
    return better


def champion(client: mlflow.MlflowClient) -> str:
    return str(client.get_model_version_by_alias("digits", ALIAS).version)


def test_champion_moves_only_to_a_better_model(uri: str) -> None:
    client = mlflow.MlflowClient(uri)
    assert offer(client, 0.5, 0.9)
    assert not offer(client, 0.4, 0.95)
    assert not offer(client, 0.5)
    assert not offer(client, float("nan"))
    assert champion(client) == "1"
    assert offer(client, 0.6)
    assert champion(client) == "5"
    assert len(client.search_model_versions("name = 'digits'")) == 5


def test_a_champion_that_others_registered_is_compared_by_its_run(uri: str) -> None:
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("digits")
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "val/accuracy", 0.7)
    client.create_model_version("digits", "file:///nowhere", run_id=run.info.run_id)
    client.set_registered_model_alias("digits", ALIAS, "1")
    assert not offer(client, 0.6)
    assert champion(client) == "1"
    assert offer(client, 0.8)
    assert champion(client) == "3"


def test_a_champion_of_which_nothing_is_known_stays(uri: str) -> None:
    client = mlflow.MlflowClient(uri)
    client.create_registered_model("digits")
    client.create_model_version("digits", "file:///nowhere")
    client.set_registered_model_alias("digits", ALIAS, "1")
    assert not offer(client, 0.9)
    assert champion(client) == "1"


@pytest.mark.parametrize(("mine", "other", "winner"), [(0.6, 0.9, "3"), (0.9, 0.6, "2")])
def test_of_two_that_end_together_the_better_one_is_champion(
    uri: str, monkeypatch: pytest.MonkeyPatch, mine: float, other: float, winner: str
) -> None:
    """Another run registers, and becomes champion, between the comparison and the alias of this one."""
    client = mlflow.MlflowClient(uri)
    assert offer(client, 0.5)
    original = mlflow.MlflowClient.set_registered_model_alias

    def interrupted(self: mlflow.MlflowClient, name: str, alias: str, version: str) -> None:
        monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", original)
        offer(client, other)
        original(self, name, alias, version)

    monkeypatch.setattr(mlflow.MlflowClient, "set_registered_model_alias", interrupted)
    offer(client, mine)
    assert champion(client) == winner
