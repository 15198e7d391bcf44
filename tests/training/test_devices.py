"""A batch shared among two devices: the processor, split in two, in a process of its own for each backend."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tnt_exp.cli import main
from tnt_exp.hardware import cpu_count

BACKENDS = ["tensorflow", pytest.param("jax", marks=pytest.mark.jax)]

_SPLIT = """
import os, sys
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""

# Settings that meet the whole batch, its labels, its gradient and the averages of its weights.
_SETTINGS = [
    *(
        "model=tiny",
        "model.depth=1",
        "model.mlp_dropout=0.1",
        "model.drop_path=0.1",
        "dataset.train_limit=200",
        "augmentation=[crop_flip,mixing]",
        "augmentation.erasing=0.3",
    ),
    *("optimizer=sgd", "optimizer.learning_rate=0.1", "optimizer.clip_norm=0.5", "optimizer.ema=0.9"),
    *("trainer.epochs=2", "trainer.batch_size=20", "trainer.steps_per_dispatch=3", "tracking=off"),
]


def on_two(folder: Path, backend: str, program: str, *arguments: str) -> str:
    """Run a program where the backend sees two devices; what it printed."""
    split = {"KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", _SPLIT + program, *arguments],
        cwd=folder,
        env=os.environ | split,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_devices_give_the_curve_of_one(tmp_path: Path, backend: str) -> None:
    program = """
from tnt_exp.cli import main
settings = [*sys.argv[1:], "trainer.backend=" + os.environ["KERAS_BACKEND"]]
sys.exit(max(main(["train", *settings, f"trainer.devices={n}", f"run.name=on_{n}"]) for n in ("1", "null")))
"""
    on_two(tmp_path, backend, program, *_SETTINGS)
    curves = []
    for name in ("on_1", "on_null"):
        folder = tmp_path / "multirun/runs" / name
        curves.append([*csv.DictReader((folder / "metrics.csv").read_text().splitlines())])
        hardware = json.loads((folder / "result.json").read_text())["hardware"]
        assert hardware["devices"] == (1 if name == "on_1" else 2)
    for key in ("train/loss", "val/loss", "val/raw/loss"):
        one, two = ([float(row[key]) for row in curve] for curve in curves)
        assert len(set(one)) == 2
        assert two == pytest.approx(one, rel=1e-4), key


@pytest.mark.jax
def test_cores_share_the_microbatches_of_one_device(tmp_path: Path) -> None:
    program = """
from tnt_exp.cli import main
from tnt_exp.training.backends import jax
for count in (1, 4, 5):  # of 20 images; the five are computed by one core
    jax.microbatch_count = lambda *_: count
    main(["train", *sys.argv[1:], "trainer.backend=jax", "trainer.devices=1", f"run.name=in_{count}"])
"""
    on_two(tmp_path, "jax", program, *_SETTINGS)
    whole, four, five = (
        [*csv.DictReader((tmp_path / f"multirun/runs/in_{count}/metrics.csv").read_text().splitlines())]
        for count in (1, 4, 5)
    )
    for key in ("train/loss", "val/loss", "val/raw/loss"):
        for other in (four, five):
            expected = [float(row[key]) for row in whole]
            assert [float(row[key]) for row in other] == pytest.approx(expected, rel=1e-5), key


@pytest.mark.jax
@pytest.mark.parametrize(
    ("variables", "devices", "cores"),
    [
        ({}, 1, cpu_count()),
        ({"NPROC": "3"}, 1, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, 2, 2),
        ({"JAX_NUM_CPU_DEVICES": "2"}, 2, 2),
    ],
    ids=["all cores", "share of a trial", "split by XLA_FLAGS", "split by JAX"],
)
def test_a_processor_is_one_device_unless_it_was_split(variables: dict[str, str], devices: int, cores: int) -> None:
    program = """
from tnt_exp.config.compose import compose
from tnt_exp.training.device import prepare_device
for _ in range(2):  # the second run of a process finds what the first one did
    device = prepare_device(compose(["trainer.backend=jax", "trainer.devices=null"]).trainer)
import jax
print(device.count, jax.local_device_count())
"""
    unset = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [int(word) for word in done.stdout.split()] == [devices, cores]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_device_does_its_part_and_no_more(tmp_path: Path, backend: str) -> None:
    program = """
import json, numpy as np
from tnt_exp import model
from tnt_exp.augmentation import Augmentation
from tnt_exp.config.compose import compose
from tnt_exp.training import optimizer
from tnt_exp.training.train_step import StepComputation, compile_train_step
config = compose(["model=tiny", "model.depth=1", "model.mlp_dropout=0.5", "augmentation=none"])
classifier = model.build(config.model, 10, 1)
look = Augmentation(config.augmentation, image_size=8, mean=[0.5], std=[0.5], num_classes=10, seed=0)
weights = classifier.trainable_variables
algorithm = optimizer.build_optimizer(config.optimizer, weights, model.is_decayed, scale_loss=False)
step = compile_train_step(StepComputation(classifier.network, look, algorithm), xla=False, devices=2)
half = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 8, 1), dtype=np.uint8)
images, labels = np.concatenate([half, half], 1), np.arange(16, dtype=np.int32)[None] % 8
if os.environ["KERAS_BACKEND"] == "jax":
    one = compile_train_step(StepComputation(classifier.network, look, algorithm), xla=False, devices=1)
    def flops(step):
        call = step._chunk.lower(step._state, images, labels, np.int32(0), np.float32([0.1]), np.float32(1))
        return call.compile().cost_analysis()["flops"]
    print(json.dumps({"part": flops(step) / flops(one)}))
else:
    seen = []
    step._share = lambda *arguments, share=step._share: seen.append(share(*arguments)) or seen[-1]
    step._chunk = step._train_chunk  # outside of a graph, so that what a device gives can be read
    step(images, labels, 0, [0.1], 1.0)
    print(json.dumps({"sums": [np.asarray(sums).tolist() for _, sums, _ in seen]}))
"""
    printed: dict[str, Any] = json.loads(on_two(tmp_path, backend, program).splitlines()[-1])
    if backend == "jax":
        assert printed["part"] < 0.6
        return
    # Each saw the same eight images, and dropped others of their values.
    sums = np.array(printed["sums"])
    assert sums[:, 3].tolist() == [8, 8]
    assert sums[0, 0] != sums[1, 0]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["trainer.backend=torch", "trainer.devices=2"], "trainer.devices: expected 1 for trainer.backend=torch"),
        (["trainer.devices=3"], "trainer.batch_size: expected a multiple of trainer.devices=3, received 64"),
        (["trainer.devices=0"], "trainer.devices: expected >= 1, received 0"),
    ],
)
def test_devices_that_cannot_share_are_refused(
    settings: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *settings]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1


def test_more_devices_than_there_are_end_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tnt_exp", "train", "model=tiny", "trainer.devices=64", "tracking=off"],
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "tnt-exp: trainer.devices: expected at most 1, which tensorflow sees, received 64.\n"


def test_the_command_line_imports_keras_without_the_packages_that_it_does_not_use(tmp_path: Path) -> None:
    program = """
import sys
import tnt_exp.cli
from tnt_exp.config.trainer import TrainerConfig
from tnt_exp.training.device import prepare_device
prepare_device(TrainerConfig())
print(*sorted({"keras", "tensorflow", "jax", "matplotlib", "pandas", "sklearn", "torch"} & set(sys.modules)))
import matplotlib, pandas, sklearn
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["keras", "tensorflow"]


def test_messages_of_native_libraries_go_to_the_log_and_pythons_are_shown(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from tnt_exp.training.device import native_messages_in
with native_messages_in(Path("train.log")):
    os.write(2, b"E0000 oneDNN says something\\n")
    print("a warning of Python", file=sys.stderr)
    os.system("echo a child says something >&2")
os.write(2, b"afterwards\\n")
"""
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stderr == "a warning of Python\nafterwards\n"
    assert (tmp_path / "train.log").read_text() == "E0000 oneDNN says something\na child says something\n"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment | {"TF_CPP_MIN_LOG_LEVEL": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "oneDNN" in done.stderr
