"""The password of a store is in no file of a run, not in the store, and in no output."""

import os
from pathlib import Path

import preloaded
import pytest
from tracking.fake_folder import FakeFolder
from tracking.password_proxy import password_proxy
from tracking.servers import Server, points, runs

from tnt_exp.errors import UserError, first_line

SMALL = ["model=tiny", "dataset.train_limit=256", "tracking.system_metrics=false"]
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")


def train(folder: Path, *arguments: str, **environment: str) -> str:
    """Train in a folder, and return everything that was printed."""
    env = {name: value for name, value in os.environ.items() if name not in _CREDENTIALS} | environment
    done = preloaded.run(["train", *SMALL, "run.name=mine", *arguments], folder, env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def files_with(folder: Path, *secrets: str) -> list[str]:
    """Return the files in which one of the secrets is, as `grep -r` finds it."""
    return [
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and any(secret.encode() in file.read_bytes() for secret in secrets)
    ]


@pytest.mark.timeout(600)
def test_a_server_that_asks_for_a_password(server: Server, tmp_path: Path) -> None:
    secrets = ("geheim!pw", "geheim%21pw", "ZXZhOmdlaGVpbSFwdw")  # as it is, quoted, and in a header of HTTP
    with password_proxy(server.uri, "eva", "geheim!pw") as port:
        output = train(tmp_path, "trainer.epochs=1", f"tracking.uri=http://eva:geheim%21pw@127.0.0.1:{port}")
        assert "MLflow cannot" not in output
        # Resumed with the password in the environment.
        output += train(
            tmp_path,
            *("trainer.epochs=2", f"tracking.uri=http://127.0.0.1:{port}"),
            MLFLOW_TRACKING_USERNAME="eva",
            MLFLOW_TRACKING_PASSWORD="geheim!pw",
        )
    (run,) = [run for run in runs(server.uri) if run.info.run_name == "mine"]
    assert run.info.status == "FINISHED"
    assert [step for step, _ in points(server.uri, run, "train/loss")] == [1, 2]
    assert not any(secret in output for secret in secrets)
    assert files_with(tmp_path, *secrets) == []
    assert files_with(server.folder, *secrets) == []


@pytest.mark.timeout(600)
def test_secrets_in_the_environment_stay_there(tmp_path: Path) -> None:
    names = [*_CREDENTIALS, "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCESS_KEY", "WANDB_API_KEY", "TF_SECRET_TOKEN"]
    output = train(tmp_path, "trainer.epochs=1", **dict.fromkeys(names, "geheim-in-der-umgebung"))
    assert "geheim-in-der-umgebung" not in output
    assert files_with(tmp_path, "geheim-in-der-umgebung") == []
    assert files_with(tmp_path, "run_folder") != []  # the search finds what is there


def test_a_store_that_refuses_is_a_short_line(tmp_path: Path) -> None:
    with (
        password_proxy("http://127.0.0.1:1", "eva", "geheim") as port,
        pytest.raises(UserError, match=r"error code 401: give the right MLFLOW_TRACKING_USERNAME and MLFLOW_TR\S*PASS"),
    ):
        FakeFolder(tmp_path / "run").begin(f"http://127.0.0.1:{port}")
    page = ValueError(f"the response body was not JSON: {'<html>' * 10_000}")
    assert first_line(page).startswith("the response body was not JSON: <html>")
    assert len(first_line(page)) < 420
