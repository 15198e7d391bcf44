"""The kit for a new GPU: archives arrive whole or not at all, stages keep their limits, the page shows all."""

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import check, kernel_profile, pack, page, speed, stage, train, unpack

CONTENTS = {
    "source/one.py": b"print(1)\n",
    "source/folder/two.txt": b"two" * 1000,
    "wheels/big.whl": bytes(range(256)) * 700,
    "data/images.bin": bytes(reversed(range(256))) * 3000,
}
ABOUT = {"python": ".".join(map(str, sys.version_info[:2])), "requirements": ["numpy"], "peers": {}}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    written = pack.write(CONTENTS, folder, 300_000, ABOUT, last=["data/images.bin"])
    assert len(written) > 4
    assert all(file.stat().st_size <= 300_000 for file in written)
    return folder


def test_archives_are_laid_out_as_they_were_packed(packed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, packed / "unpack.py", packed, "--to", tmp_path / "kit"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, data in CONTENTS.items():
        assert (tmp_path / "kit" / name).read_bytes() == data
    assert not list((tmp_path / "kit").rglob("*.part*"))


def test_archives_may_come_one_at_a_time(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring, kit = tmp_path / "bring", tmp_path / "kit"
    bring.mkdir()
    (bring / "manifest.json").write_bytes((packed / "manifest.json").read_bytes())
    archives = sorted(packed.glob("*.tar"))
    codes = []
    for archive in archives:
        archive.rename(bring / archive.name)
        codes.append(unpack.main([str(bring), "--to", str(kit)]))
        (bring / archive.name).unlink()  # what was laid out need not come again
    printed = capsys.readouterr().out
    # The data come last: before them everything else is there already, and can be run.
    assert codes[0] == codes[-1] == 0
    assert f"bring {', '.join(archive.name for archive in archives[1:])} and" in printed
    assert "all but these data is there" in printed
    assert (kit / "data/images.bin").read_bytes() == CONTENTS["data/images.bin"]


def test_damaged_archive_is_refused(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = packed / "tnt-exp-gpu-1.tar"
    data = bytearray(archive.read_bytes())
    data[5000] ^= 1
    archive.write_bytes(bytes(data))
    assert unpack.main([str(packed), "--to", str(tmp_path / "kit")]) == 2
    assert "expected SHA-256" in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()


@pytest.mark.parametrize("path", ["/etc/passwd", "source/../../outside"])
def test_nothing_is_written_outside_the_folder(packed: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((packed / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (packed / "manifest.json").write_text(json.dumps(manifest))
    assert unpack.main([str(packed), "--to", str(packed.parent / "kit")]) == 2
    assert "below the target folder" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("60MB", 60_000_000), ("64MiB", 2**26), ("1000000", 10**6)])
def test_sizes_are_read(text: str, expected: int) -> None:
    assert pack.size(text) == expected


def test_what_is_packed_is_what_the_project_asks_for() -> None:
    asked = {pack._name(line) for line in pack.requirements(peers=False)}
    assert {"keras", "hydra-core", "matplotlib", "pytest"} <= asked
    assert not asked & {"tensorflow", "mlflow", "optuna", "scikit-learn"}
    numpy = [line for line in pack.constraints("3.12") if line.startswith("numpy==")]
    assert len(numpy) == 1


def stage_of(tmp_path: Path, name: str, seconds: float = 60.0) -> stage.Stage:
    return stage.Stage(name, tmp_path, None, ["jax"], True, seconds, "python -m benchmarks.gpu")


def test_command_ends_at_the_limit_with_what_it_started(tmp_path: Path) -> None:
    program = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    begin = time.monotonic()
    answer = stage_of(tmp_path, "check", 1.0).run(stage.python("-c", program))
    assert time.monotonic() - begin < 20
    assert (answer.code, answer.why()) == (None, "ended at the time limit")
    assert "begun" in answer.output


def test_figures_of_the_same_hardware_are_kept(tmp_path: Path) -> None:
    first = stage_of(tmp_path, "speed")
    first.start()
    first.add("ours", rate=1.0)
    again = stage_of(tmp_path, "speed")
    again.start()
    assert again.record["items"] == {"ours": {"rate": 1.0}}
    record = json.loads(again.file.read_text())
    again.file.write_text(json.dumps({**record, "hardware": "another"}))
    again.start()
    assert again.record["items"] == {}


def test_state_is_brought_out_in_parts_and_laid_out_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PART_BYTES", 7000)
    run, output = tmp_path / "run", tmp_path / "output"
    output.mkdir()
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n")
    for name in ("step-00000010.json", "step-00000010.safetensors"):
        (run / "checkpoints" / name).write_bytes(b"x" * 9000)
    train._bring_out(run, output, "recipe", finished=False)
    assert len(list(output.glob("state_recipe.tar.*"))) > 2
    train._restore(output, "recipe", tmp_path / "other")
    assert (tmp_path / "other/checkpoints/step-00000010.safetensors").read_bytes() == b"x" * 9000
    assert (tmp_path / "other/config.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize(("letters", "status"), [(".....s..", "passed"), ("..F", "failed"), ("", "failed")])
def test_tests_that_the_limit_ends_are_counted(tmp_path: Path, letters: str, status: str) -> None:
    answer = stage.Answer(None, 9.0, f"bringing up nodes...\n{letters}")
    found = check._counts(answer, tmp_path / "none.xml")
    assert found["status"] == status
    assert f"after {len(letters)} tests" in found["why"]


def event(name: str, begin: float, length: float, tid: int = 1, **more: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "ts": begin, "dur": length, "pid": 1, "tid": tid, **more}


def test_trace_of_a_gpu_is_summed_by_kind() -> None:
    names = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "Stream #13(Compute)"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 2, "args": {"name": "XLA Ops"}},
    ]
    events = [event("nvjet_gemm_128", 0, 60), event("loop_add_fusion", 70, 20), event("MemcpyD2D", 90, 10)]
    found = kernel_profile.summary({"traceEvents": [*names, *events, event("fusion.1", 0, 100, tid=2)]})
    assert (found["where"], found["kernels"]) == ("gpu", 3)
    assert found["idle_share"] == pytest.approx(0.1)
    assert found["share_by_kind"] == pytest.approx({"products": 0.6667, "elementwise": 0.2222, "copies": 0.1111})
    assert found["top"][0] == {"name": "nvjet_gemm_128", "share": 0.6667, "calls": 1}


def test_trace_of_a_processor_counts_an_operation_once() -> None:
    thread = {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "tf_XLAExecute/1"}}
    events = [
        event("while.1", 0, 100),
        event("dot.3", 10, 40),
        event("end: dot.3", 50, 1),
        event("loop_fusion", 60, 20),
    ]
    found = kernel_profile.summary({"traceEvents": [thread, *events]})
    assert (found["where"], found["kernels"]) == ("cpu", 3)
    assert found["share_by_kind"] == pytest.approx({"products": 0.4, "other": 0.4, "elementwise": 0.2})
    assert found["idle_share"] == 0


def test_what_matters_most_is_measured_first() -> None:
    found = speed.sides(["jax"], small=False)
    assert (found[0].network, found[0].backend, found[0].precision) == ("example", "jax", "bfloat16")
    assert {side.precision for side in found} == {"bfloat16", "tf32", "float32"}
    assert len({speed.key(side, 128) for side in found}) == len(found)


def test_page_shows_every_stage(tmp_path: Path) -> None:
    about = {
        **{"command": "python -m benchmarks.gpu", "date": "2026-01-01 00:00 UTC", "scale": "full", "seconds": 10.0},
        **{"limit_seconds": 60.0, "versions": {"python": "3.12"}},
        "hardware": {"cpu": "a processor", "cores": 2, "gpus": [{"name": "a GPU", "memory_mib": "1", "driver": "2"}]},
    }
    spread = {"median": 100.0, "lower": 99.0, "upper": 101.0}
    row = {"rate": 100.0, "tflops": 0.5, "images_per_second": spread, "peak_gib": 1.0, "first_call_seconds": 2.0}
    speeds = {
        "limits": {
            "matmul_tflops_bfloat16": 10.0,
            "copy_gb_per_second": 100.0,
            "data_sheet": speed.DATA_SHEETS["H200"],
        },
        "ours, jax | same | bfloat16 | 128": {**row, "rate": 300.0},
        "timm, compiled | same | bfloat16 | 128": row,
        "timm, eager | same | bfloat16 | 4096": {"does_not_fit": "out of memory"},
    }
    cost = {"operations_per_image": 1e9, "numbers_moved_per_image": 1e7}
    curve = [{"epoch": k, "seconds": 30.0, "train/accuracy": 0.1 * k, "val/accuracy": 0.1 * k} for k in (1, 2)]
    recipe = {"status": "finished", "backend": "jax", "curve": curve, "calls": [{}], "images_per_second": 5.0}
    failures = {"tests.model.test_tnt.test_one": ["assert 1 == 2"]}
    checks = {
        "jax/digits": {"status": "passed", "accuracy": 0.99, "images_per_second": 1.0, "first_step_seconds": 1.0},
        "jax/tests": {"status": "failed", "tests": 9, "failed": 1, "skipped": 0, "seconds": 1.0, "failures": failures},
    }
    records = {
        "check": {**about, "items": checks},
        "speed": {**about, "items": speeds, "networks": {"same": cost, "example": cost}},
        "train": {**about, "items": {"cifar100_50ep": {**recipe, "metrics": {"test/accuracy": 0.61}}}},
    }
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert page.main(tmp_path)
    text = (tmp_path / "page.md").read_text()
    for words in ("a GPU", "3.00 times timm, compiled", "does not fit", "61.00 %", "test_one", "test accuracy 0.9900"):
        assert words in text
    for name in ("speed", "roofline", "train"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_page_without_figures_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not page.main(tmp_path)
    assert "run those stages first" in capsys.readouterr().out


def test_archive_holds_only_plain_files(packed: Path) -> None:
    for archive in packed.glob("*.tar"):
        with tarfile.open(archive) as tar:
            assert all(member.isfile() for member in tar)
