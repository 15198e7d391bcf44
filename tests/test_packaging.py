"""What is built from the project's files is complete: the image of the Dockerfile, the compose file."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, installed from what the Dockerfile copies, and nothing else."""
    tmp_path = tmp_path_factory.mktemp("image")
    text = (ROOT / "Dockerfile").read_text()
    (tmp_path / "app").mkdir()
    for *sources, target in (line.split()[1:] for line in text.splitlines() if line.startswith("COPY")):
        for source in sources:
            place = tmp_path / "app" / target / (Path(source).name if target.endswith("/") else "")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(ROOT / source, place)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "installed"), "."]
    subprocess.run(pip, cwd=tmp_path / "app", check=True, timeout=250)
    return tmp_path / "installed"


def tnt(installed: Path, folder: Path, *arguments: str) -> str:
    """What a command of the installed package prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tnt_exp", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(installed), "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_dockerfile_copies_is_enough_to_run(installed: Path, tmp_path: Path) -> None:
    composed = yaml.safe_load(tnt(installed, tmp_path, "train", "--cfg", "job"))
    assert composed["dataset"]["name"] == "digits"
    assert re.search(r"^USER (?!0|root)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_shipped_model_classifies_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    line = json.loads(tnt(installed, tmp_path, "predict", "cifar100", "photo.jpg", "--json", "--top", "100"))
    assert len(line["classes"]) == 100
    assert sum(line["classes"].values()) == pytest.approx(1, abs=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["photo.jpg"]


def test_compose_file_serves_on_localhost_and_holds_no_password() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    secrets = [str(value) for service in services.values() for value in service.get("environment", {}).values()]
    assert sum(value.startswith("${POSTGRES_PASSWORD:?") for value in secrets) == 2
    assert not any(re.search(r"//[^/]*:[^/]*@", value) for value in secrets)


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-lowest.lock"])
def test_locks_fit_the_bounds(lock: str) -> None:
    """`make lock` writes both: the newest versions that the bounds allow, and the lowest. Where this fails: run it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(line) for line in [*project["dependencies"], *extras["test"], *extras["onnx"]]]
    locked = [Requirement(line) for line in (ROOT / lock).read_text().splitlines()]
    versions = {requirement.name: str(requirement.specifier).removeprefix("==") for requirement in locked}
    needed = [each for each in needed if each.name != project["name"]]  # the extra "test" names that of ONNX
    wrong = [str(each) for each in needed if not each.specifier.contains(versions[each.name])]
    assert wrong == []
