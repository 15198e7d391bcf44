"""One run of two processes on the loopback address, each with the processor split in two devices.

TNT_EXP_KILLS=10 kills so many runs at random moments, instead of two.
"""

import contextlib
import csv
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tnt_exp.cli import main
from tnt_exp.errors import UserError
from tnt_exp.run_folder import first_difference
from tnt_exp.training import distributed

pytestmark = pytest.mark.jax

KILLS = int(os.environ.get("TNT_EXP_KILLS", "2"))

# Settings that meet the whole batch, its labels, its gradient, the averages of its weights and both random streams.
RUN = [
    *("model=tiny", "model.depth=1", "model.mlp_dropout=0.1", "dataset.train_limit=400", "schedule=constant"),
    *("augmentation=[crop_flip,mixing]", "augmentation.mix_probability=0.5", "augmentation.repeats=2"),
    *("optimizer=sgd", "optimizer.learning_rate=0.1", "optimizer.clip_norm=0.5", "optimizer.ema=0.9"),
    "trainer.backend=jax",
    *("trainer.epochs=8", "trainer.batch_size=40", "trainer.steps_per_dispatch=3", "trainer.checkpoint.steps=6"),
    *("tracking.system_metrics=false", "tracking.log_model=false", "run.name=run"),
]
SHARED = [*RUN, "trainer.distributed=auto", "trainer.devices=2"]
LOST = "another process of the run was lost"


def environment(devices: int, **variables: str) -> dict[str, str]:
    return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", **variables}


def start(folder: Path, *, slurm: bool = False) -> list[subprocess.Popen[str]]:
    """Start the two processes, with addresses or in what looks like a job step; they print to 0.txt and 1.txt."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if slurm:
        common = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        common["JAX_COORDINATOR_PORT"] = str(port)
    else:
        common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    started = []
    for index in range(2):
        with (folder / f"{index}.txt").open("w") as output:
            own = dict.fromkeys(["SLURM_PROCID", "SLURM_LOCALID"] if slurm else ["JAX_PROCESS_ID"], str(index))
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tnt_exp", "train", *SHARED],
                    cwd=folder,
                    env=environment(2, **common, **own),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
    return started


def printed(folder: Path, index: int = 0) -> str:
    return (folder / f"{index}.txt").read_text()


def wait_for(folder: Path, started: list[subprocess.Popen[str]], text: str) -> None:
    """Wait until process 0 has printed a text, or has ended."""
    while text not in printed(folder) and started[0].poll() is None:
        time.sleep(0.02)


def exit_codes(started: list[subprocess.Popen[str]], seconds: float = 200) -> list[int]:
    """The exit codes, once both have ended."""
    try:
        return [process.wait(seconds) for process in started]
    finally:
        for process in started:
            process.kill()


def finish(folder: Path) -> None:
    """Type the command again until the end."""
    codes = exit_codes(start(folder))
    assert codes == [0, 0], printed(folder) + printed(folder, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The folder of an undisturbed run of two processes, and the seconds from its connection to its end."""
    folder = tmp_path_factory.mktemp("whole")
    started = start(folder, slurm=True)
    wait_for(folder, started, "connected 2 processes")
    begin = time.monotonic()
    assert exit_codes(started) == [0, 0], printed(folder) + printed(folder, 1)
    return folder / "multirun/runs/run", time.monotonic() - begin


def curve(folder: Path, key: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file)]


@pytest.mark.timeout(300)
def test_two_processes_of_two_devices_give_the_curve_of_four_devices_and_of_one(
    whole: tuple[Path, float], tmp_path: Path
) -> None:
    program = """
import sys
from tnt_exp.cli import main
sys.exit(max(main(["train", *sys.argv[1:], f"trainer.devices={n}", f"run.name=on_{n}"]) for n in (4, 1)))
"""
    subprocess.run(
        [sys.executable, "-c", program, *RUN, "tracking=off"], cwd=tmp_path, env=environment(4), timeout=200, check=True
    )
    for count, tolerance in ((4, 1e-5), (1, 1e-4)):
        for key in ("train/loss", "train/accuracy", "val/loss", "val/raw/loss"):
            expected, found = curve(tmp_path / f"multirun/runs/on_{count}", key), curve(whole[0], key)
            difference = max(abs(a - b) / abs(a) for a, b in zip(expected, found, strict=True))
            print(f"{count} devices of one process, {key}: {difference:.1e} relative")
            assert len(found) == 8
            assert difference < tolerance


@pytest.mark.timeout(100 + 150 * KILLS)
def test_a_lost_process_ends_all_and_the_same_command_continues(whole: tuple[Path, float], tmp_path: Path) -> None:
    """At random moments after the connection; a run that was done before is compared, and another begun."""
    stop_by_a_signal(tmp_path / "0")
    dice, kills, chain = random.Random(int(os.environ.get("TNT_EXP_SEED", "0"))), 0, tmp_path / "0"
    while kills < KILLS:
        started, victim = start(chain), kills % 2
        wait_for(chain, started, "connected 2 processes")
        moment = dice.uniform(0, 0.7 * whole[1])
        with contextlib.suppress(subprocess.TimeoutExpired):
            started[0].wait(moment)
        begin = time.monotonic()
        started[victim].kill()
        codes, seconds = exit_codes(started), time.monotonic() - begin
        if 0 in codes:  # all was done already: one was killed while they left each other
            assert "use        tnt-exp" in printed(chain)
            check_finished(chain, whole[0])
            chain = tmp_path / str(int(chain.name) + 1)
            continue
        kills += 1
        lines = [line for line in printed(chain).splitlines() if not line.startswith(("[Gloo]", "tnt-exp:"))]
        print(f"kill {kills}: process {victim}, {moment:.1f} s after the connection, at {lines[-1][:40]!r}:", end=" ")
        print(f"exit codes {codes} within {seconds:.1f} s", flush=True)
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] == 75
        assert LOST in printed(chain, 1 - victim)
        assert seconds < 30
    finish(chain)
    check_finished(chain, whole[0])


def stop_by_a_signal(folder: Path) -> None:
    """A signal to one process stops all, after a checkpoint."""
    started = start(folder)
    wait_for(folder, started, "epoch 1/8")
    started[1].send_signal(signal.SIGTERM)
    assert exit_codes(started) == [143, 143], printed(folder) + printed(folder, 1)
    assert "stopped by SIGTERM" in printed(folder)
    assert mlflow_runs(folder)[0][0] == "KILLED"
    run = folder / "multirun/runs/run"
    assert any((run / "checkpoints").iterdir())
    assert len(curve(run, "val/loss")) < 8, "the signal was ignored until the end"


def check_finished(folder: Path, whole: Path) -> None:
    """It has the bits of the undisturbed run, in MLflow one run, and the other process has written nothing."""
    assert first_difference(folder / "multirun/runs/run", whole) is None
    assert mlflow_runs(folder) == [("FINISHED", 8)]
    assert [path.name for path in (folder / "multirun/runs").iterdir()] == ["run"]


def mlflow_runs(folder: Path) -> list[tuple[str, int]]:
    """Status and points of the validation loss of each run in the store."""
    query = (
        "SELECT status, (SELECT COUNT(*) FROM metrics WHERE metrics.run_uuid = runs.run_uuid AND key = 'val/loss') "
        "FROM runs"
    )
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute(query).fetchall()


JAX = ["trainer.backend=jax", "trainer.distributed=auto", "run.name=run"]
ADDRESS = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:4321"}


@pytest.mark.parametrize(
    ("settings", "variables", "line"),
    [
        (
            JAX[1:],
            {},
            "trainer.backend: expected jax for trainer.distributed=auto",
        ),
        (JAX[:2], {}, "run.name: expected a name for trainer.distributed=auto"),
        ([*JAX, "trainer.resume=never"], {}, "trainer.resume: expected auto"),
        ([*JAX, "trainer.precision=auto"], {}, "trainer.precision: expected one precision"),
        (JAX, {}, "expected a start by srun or mpirun, or JAX_PROCESS_ID, JAX_NUM_PROCESSES, JAX_COORDINATOR_ADDRESS"),
        (JAX, ADDRESS, "received only JAX_COORDINATOR_ADDRESS"),
        (JAX, {**ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "expected a number from 0 to JAX_NUM_PROC"),
        (JAX, {"JAX_COORDINATOR_ADDRESS": "h", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "expected HOST:PORT"),
        (
            [*JAX, "augmentation.repeats=4", "trainer.batch_size=12"],
            {**ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
            "trainer.batch_size: expected a multiple of 8 (2 processes",
        ),
        (["-m", *JAX, "seed=0"], {}, "trainer.distributed: expected none in a sweep"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    settings: list[str],
    variables: dict[str, str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["train", *settings]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_process_whose_others_never_come_ends_with_one_line(tmp_path: Path) -> None:
    program = """
import sys
from tnt_exp.cli import main
from tnt_exp.training import distributed
distributed.CONNECT_SECONDS = 2
sys.exit(main())
"""
    variables = {**ADDRESS, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    command = [sys.executable, "-c", program, "train", *SHARED]
    done = subprocess.run(command, cwd=tmp_path, env=environment(2, **variables), capture_output=True, text=True)
    assert done.returncode == 2
    line = "tnt-exp: trainer.distributed=auto: expected 2 processes, received fewer within 2 seconds. Start "
    line += "the same command in all of them, where the address of process 0 can be reached.\n"
    assert done.stderr == line


ARRAYS = hnp.arrays(st.sampled_from([np.float32, np.int64, np.bool_]), hnp.array_shapes(min_dims=0, min_side=0))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | ARRAYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


def as_plain(value: object) -> object:
    if isinstance(value, list):
        return [as_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: as_plain(each) for key, each in value.items()}
    return (str(value.dtype), value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value


@given(VALUES)
def test_what_process_0_sends_arrives_as_it_was(value: object) -> None:
    found, error = distributed._decode(distributed._encode(value, None))
    assert as_plain(found) == as_plain(value)
    assert error is None


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(UserError("run.name: x"), UserError), (OSError(28, "full"), OSError), (KeyError(1), RuntimeError)],
)
def test_an_error_of_process_0_arrives(raised: Exception, kind: type[Exception]) -> None:
    _, error = distributed._decode(distributed._encode(None, raised))
    assert type(error) is kind
    assert str(raised) in str(error)
    assert getattr(error, "errno", None) == getattr(raised, "errno", None)


def test_nothing_else_is_sent() -> None:
    with pytest.raises(TypeError, match=r"Expected JSON or arrays, received: \w*Path"):
        distributed._encode({"file": Path()}, None)
