import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp.data import validate
from tnt_exp.errors import UserError


def test_check_and_facts_import_nothing_slow(official: Any, tmp_path: Path) -> None:
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(official.tar(official.binary_cifar100(2, 2), "x", mode="gz"))
    folder = official.write(tmp_path / "mnist", official.mnist())
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "b").mkdir()
    program = f"""
import sys
from tnt_exp.config.dataset import DatasetConfig, Source
from tnt_exp import data
for config in (
    DatasetConfig(),
    DatasetConfig(name=Source.cifar100, path={str(path)!r}),
    DatasetConfig(name=Source.mnist, path={str(folder)!r}),
    DatasetConfig(name=Source.image_folder, path={str(tmp_path / "images")!r}, image_size=8),
):
    data.validate(config)
    data.dataset_info(config)
slow = {{"PIL", "sklearn", "keras", "tensorflow", "rich", "psutil"}} & sys.modules.keys()
sys.exit(f"imported {{slow}}" if slow else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "x"}, r"dataset\.path=x: expected none with dataset=digits"),
        ({"path": ""}, r"dataset\.path: expected a file or folder for dataset=digits, received none"),
        ({"image_size": 32}, r"dataset\.image_size=32: expected only with dataset=image_folder"),
        ({"channels": 1}, r"dataset\.channels=1: expected only with dataset=image_folder"),
        ({"channels": 2}, r"dataset\.channels: expected 1 \(grey\) or 3 \(RGB\), received 2"),
        ({"name": Source.cifar100, "path": "/nowhere"}, r"dataset\.path=/nowhere: .* where nothing is"),
        ({"name": Source.cifar100, "path": "{file}"}, r"text: expected a folder or a tar archive"),
        ({"name": Source.cifar10, "path": "{folder}"}, r"expected the files of cifar10 \(data_batch_1\.bin"),
        ({"name": Source.mnist, "path": "{folder}"}, "received no train-images-idx3-ubyte"),
        ({"name": Source.fashion_mnist, "path": "{file}"}, r"expected an \.npz file, received another file"),
        ({"name": Source.npz}, r"dataset\.path: expected a file or folder for dataset=npz, received none"),
        ({"name": Source.npz, "path": "{file}"}, r"expected an \.npz file, received another file"),
        ({"name": Source.npz, "path": "{folder}"}, r"expected an \.npz file, received a folder"),
        ({"name": Source.image_folder, "image_size": 8}, r"dataset\.path: expected a file or folder"),
        ({"name": Source.image_folder, "path": "{folder}"}, r"dataset\.image_size: expected a side in pixels"),
        ({"name": Source.image_folder, "path": "{file}", "image_size": 8}, "expected a folder of class folders"),
        (
            {"name": Source.image_folder, "path": "{folder}", "image_size": 8},
            "two or more class folders, received none",
        ),
    ],
)
def test_what_can_be_found_without_reading(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("<html>404</html>")
    if "path" in options:
        path = options["path"].format(file=tmp_path / "text", folder=tmp_path / "folder")
        options = options | {"path": path}
    with pytest.raises(UserError, match=message) as raised:
        validate(DatasetConfig(**options))
    assert "\n" not in str(raised.value)


def test_home_is_expanded(official: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official.write(tmp_path / "mnist", official.mnist())
    monkeypatch.setenv("HOME", str(tmp_path))
    validate(DatasetConfig(name=Source.mnist, path="~/mnist"))
