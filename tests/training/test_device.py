"""The precision that `trainer.precision=auto` chooses, for processors and GPUs that are not here."""

import os
from pathlib import Path

import preloaded
import pytest

from tnt_exp import hardware
from tnt_exp.config.compose import compose
from tnt_exp.config.trainer import Backend, Precision
from tnt_exp.run_folder import first_difference
from tnt_exp.training import device

FLAGS = {"old": "fma avx2 avx512f", "zen4": "avx512f avx512_bf16", "sapphire_rapids": "avx512_bf16 amx_bf16 amx_tile"}


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("xla", [False, True])
def test_the_rule(backend: Backend, xla: bool) -> None:
    onednn = backend is Backend.tensorflow and not xla
    expected = {(True, True): True, (True, False): False, (False, True): onednn, (False, False): False}
    for (on_gpu, has_bfloat16), is_faster in expected.items():
        found = device.faster_precision(backend, on_gpu=on_gpu, has_bfloat16=has_bfloat16, xla=xla)
        assert (found is Precision.mixed_bfloat16) == is_faster
        assert found in (Precision.mixed_bfloat16, Precision.float32)


@pytest.mark.parametrize("processor", FLAGS)
@pytest.mark.parametrize("given", Precision)
def test_precision_follows_the_flags_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, processor: str, given: Precision
) -> None:
    import keras

    if keras.config.backend() != "tensorflow":
        pytest.skip("the flags matter to TensorFlow alone")
    before = keras.config.dtype_policy()
    monkeypatch.setattr(device, "processor_info", lambda field: FLAGS[processor] if field == "flags" else processor)
    try:
        found = device.prepare_device(compose([f"trainer.precision={given.value}"]).trainer)
        chosen = "float32" if processor == "old" else "mixed_bfloat16"
        assert found.precision == (chosen if given is Precision.auto else given.value)
        assert keras.config.dtype_policy().name == found.precision
        assert found.name.startswith(processor)
    finally:
        keras.config.set_dtype_policy(before)


def test_processor_info() -> None:
    assert hardware.processor_info("no such field") == ""
    if Path("/proc/cpuinfo").exists() and os.uname().machine == "x86_64":
        assert "sse2" in hardware.processor_info("flags").split()
        assert "\n" not in hardware.processor_info("model name")


@pytest.mark.parametrize(("then", "now"), [("zen4", "old"), ("old", "zen4")])
def test_run_that_moves_to_another_processor_has_the_same_bits(tmp_path: Path, then: str, now: str) -> None:
    keys = [
        "model=tiny",
        "model.depth=1",
        "dataset.train_limit=100",
        "schedule=constant",
        "tracking=off",
        "trainer.precision=auto",
    ]

    def tnt(flags: str, *arguments: str) -> str:
        done = preloaded.run(
            [FLAGS[flags], *arguments], tmp_path, script=Path(__file__).with_name("other_processor.py")
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def train(flags: str, *arguments: str) -> str:
        return tnt(flags, "train", *keys, *arguments)

    train(then, "run.name=whole", "trainer.epochs=2")
    chosen = "mixed_bfloat16" if then == "zen4" else "float32"
    assert f"without XLA, {chosen}\n" in train(then, "run.name=moved", "trainer.epochs=1")
    assert f"without XLA, {chosen}\n" in train(now, "run.name=moved", "trainer.epochs=2")
    runs = tmp_path / "multirun/runs"
    assert first_difference(runs / "moved", runs / "whole") is None
    if then == "zen4":
        assert "equal, bit for bit" in tnt(now, "reproduce", "multirun/runs/whole")
