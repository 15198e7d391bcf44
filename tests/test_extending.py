"""docs/extending.md: its data set, copied from the page into a copy of the package, trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_data_set_of_the_page_is_one_file_and_one_option(tmp_path: Path) -> None:
    line, source = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    (option,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    for name in ("tnt_exp", "hydra_plugins", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = tmp_path / "tnt_exp/config/dataset.py"
    config.write_text(config.read_text().replace('    npz = "npz"\n', f'    npz = "npz"\n{line}'))
    (tmp_path / "tnt_exp/data/sources/flowers.py").write_text(source)
    (tmp_path / "conf/dataset/flowers.yaml").write_text(option)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tnt_exp", "train", "dataset=flowers", "model=tiny", "trainer.epochs=2"),
            *("trainer.batch_size=8", "tracking=off", "schedule.warmup_epochs=0"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # 60 images: a fifth for the test, a tenth of the rest for validation.
    assert "flowers: 43 train, 5 validation, 12 test images of 8x8x3 in 3 classes" in done.stdout
