"""What is built from the project's files is complete: the image of the Dockerfile, the compose file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_what_the_dockerfile_copies_is_enough_to_install_and_run(tmp_path: Path) -> None:
    """Its steps without an engine: the copied files alone are installed, and the program starts."""
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
    done = subprocess.run(
        [sys.executable, "-m", "tnt_exp", "train", "--cfg", "job"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["dataset"]["name"] == "digits"
    assert re.search(r"^USER (?!0|root)", text, re.MULTILINE)


def test_compose_file_serves_on_localhost_and_holds_no_password() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    secrets = [str(value) for service in services.values() for value in service.get("environment", {}).values()]
    assert sum(value.startswith("${POSTGRES_PASSWORD:?") for value in secrets) == 2
    assert not any(re.search(r"//[^/]*:[^/]*@", value) for value in secrets)
