from pathlib import Path
from typing import Any

import pytest

from tnt_exp.training.profiler import ProfiledStep

pytestmark = pytest.mark.backend


def test_some_steps_are_traced_and_change_nothing(make: Any, chunk: Any, tmp_path: Path) -> None:
    images, labels = chunk
    sums = []
    for traced in (False, True):
        _, _, step = make()
        step = ProfiledStep(step, tmp_path / "profile") if traced else step
        for number in range(8):
            assert list(tmp_path.iterdir()) == [] or number > 2
            last = step(images[:1], labels[:1], number, [1e-2], 1.0)
        step.sync_to_model()
        sums.append([float(value) for value in last])
    assert sums[0] == sums[1]
    found = [file for file in (tmp_path / "profile").rglob("*") if file.is_file()]
    assert any(file.name.endswith((".xplane.pb", "perfetto_trace.json.gz")) for file in found)
    assert all(file.stat().st_size > 0 for file in found)
