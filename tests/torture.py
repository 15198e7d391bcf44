"""Kill a run again and again, type the same command each time, and compare what comes of it to the bit.

make torture                                         25 SIGKILL and 25 SIGTERM on TensorFlow, as many on JAX
python tests/torture.py --backend jax --kills 5      5 of each on JAX

A chain is one run, of one of `VARIANTS`, that is killed in turn in each of `MOMENTS`, at a random moment of each, and
continued by the same command until it is done; then its weights, optimizer, random state, curve and final metrics are
compared with those of a run that was not killed. A kill is counted when the process died of it (SIGKILL) or ended with
143 (SIGTERM), and is good when its chain ends bit-equal: what a kill does wrong stays in the state that the next
process continues from. After each chain the MLflow store holds one run, FINISHED, with each point of the curve once;
after some kills `tnt-exp doctor --fix` is run, and nothing may be RUNNING then.
"""

import argparse
import contextlib
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preloaded

MOMENTS = ("data loading", "mid-step", "checkpoint write", "evaluation", "tracking flush")
_CALLS = {"data loading": 1, "mid-step": 12, "checkpoint write": 5, "evaluation": 3, "tracking flush": 3}
_LATER = 0.03  # seconds, at most, from the call to the signal
_EPOCHS = 8
RUN = [
    *("model=tiny", "augmentation=keras_example", "model.mlp_dropout=0.1", "model.attention_dropout=0.1"),
    *("dataset.train_limit=400", f"trainer.epochs={_EPOCHS}", "trainer.checkpoint.steps=3", "schedule=constant"),
    *("tracking.system_metrics=false", "tracking.log_model=false", "run.name=run"),
]
# What chains differ in, by name: overrides, and others that the first start of a chain has besides.
VARIANTS: dict[str, tuple[list[str], list[str]]] = {
    "EMA": (["optimizer.ema=0.9"], []),
    "Muon": (["optimizer=muon", "optimizer.ema=0.9"], []),
    "accumulation": (["optimizer.accumulation=4", "optimizer.ema=0.9"], []),
    "early stopping": (["optimizer.learning_rate=0.02", "trainer.patience=1"], []),
    "changed epochs": ([], [f"trainer.epochs={_EPOCHS - 3}"]),
    "bfloat16": (["trainer.precision=mixed_bfloat16"], []),
}


def main(arguments: list[str]) -> int:
    """Torture and say how it went; 1 where anything differs."""
    parser = argparse.ArgumentParser(description="Kill runs, continue them, compare them.")
    parser.add_argument("--backend", choices=["tensorflow", "jax"], default="tensorflow")
    parser.add_argument("--kills", type=int, default=25, help="of each signal (default 25)")
    parser.add_argument("--signals", nargs="+", choices=["SIGKILL", "SIGTERM"], default=["SIGKILL", "SIGTERM"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    preload(options.backend)
    with tempfile.TemporaryDirectory() as folder:
        report = torture(Path(folder), options.backend, options.kills, options.signals, options.variants, options.seed)
    print("\n".join(report.lines()), flush=True)
    return int(bool(report.wrong))


def preload(backend: str) -> None:
    """Import what takes seconds once; each start of a command is a fork of here, where nothing was computed."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "TF_CPP_MIN_LOG_LEVEL": "2"}
    preloaded.preload(backend)


class Report:
    """What became of the kills.

    Attributes:
        kills: (signal, moment): kills.
        good: Signal: kills in chains that ended bit-equal.
        wrong: What was not as it should be.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.kills: Counter[tuple[str, str]] = Counter()
        self.good: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.chains = self.doctors = 0
        self.variants: Counter[str] = Counter()

    def lines(self) -> list[str]:
        """For a person."""
        variants = ", ".join(f"{name} {count}" for name, count in self.variants.items())
        lines = [f"{self.backend}: {self.chains} chains ({variants}), {self.doctors} times the doctor"]
        for name in dict.fromkeys(name for name, _ in self.kills):
            moments = ", ".join(f"{moment} {self.kills[name, moment]}" for moment in MOMENTS)
            total = sum(count for (killed, _), count in self.kills.items() if killed == name)
            lines.append(f"  {name}: {self.good[name]} of {total} bit-equal ({moments})")
        return [*lines, *(f"  WRONG: {line}" for line in self.wrong)]


def torture(folder: Path, backend: str, kills: int, signals: list[str], variants: list[str], seed: int) -> Report:
    """Kill chains of runs until each signal has its kills."""
    from tnt_exp.run_folder import first_difference

    report, dice = Report(backend), random.Random(f"{seed} {backend}")
    basis = [*RUN, f"trainer.backend={backend}", f"trainer.deterministic={str(backend == 'tensorflow').lower()}"]
    for number in (signal.Signals[name] for name in signals):
        code = 143 if number is signal.SIGTERM else -number
        done = 0
        while done < kills:
            variant = variants[report.chains % len(variants)]
            report.chains += 1
            report.variants[variant] += 1
            command, first = [*basis, *VARIANTS[variant][0]], VARIANTS[variant][1]
            whole = folder / variant.replace(" ", "-")
            if not whole.exists():
                whole.mkdir()
                _expect(_start(whole, command), 0, whole)
            chain = folder / f"{number.name}-{report.chains}"
            chain.mkdir()
            moments = dice.sample(MOMENTS, len(MOMENTS))
            inside = 0
            for moment in moments[: kills - done]:
                when = (moment, dice.randint(1, _CALLS[moment]), dice.uniform(0, _LATER), number.name)
                shorter = [text for text in command if not (first and text.startswith("trainer.epochs="))]
                ended = _start(chain, [*shorter, *first] if first else command, when)
                first = []
                if ended == 0:  # it was done before the moment came
                    continue
                _expect(ended, code, chain)
                report.kills[number.name, moment] += 1
                inside += 1
                if number is signal.SIGTERM and (left := _statuses(chain)) not in ({}, {"KILLED": 1}):
                    report.wrong.append(f"{chain.name}: {left} after SIGTERM in {moment}")
                if number is signal.SIGKILL and dice.random() < 0.3:
                    report.doctors += 1
                    _expect(_forked(chain, _doctor), 0, chain)
                    if _statuses(chain).get("RUNNING"):
                        report.wrong.append(f"{chain.name}: RUNNING after the doctor, killed in {moment}")
            _expect(_start(chain, command), 0, chain)
            wrong = _not_as_it_should_be(chain, whole)
            found = first_difference(chain / "multirun/runs/run", whole / "multirun/runs/run")
            if found:
                wrong.append(f"{chain.name} ({variant}; {', '.join(moments)}): {found}")
            if not wrong:
                report.good[number.name] += inside
            report.wrong += wrong
            done += inside
            print(f"{backend} {number.name}: {done} of {kills} kills, {len(report.wrong)} wrong", flush=True)
    return report


def _start(folder: Path, command: list[str], when: tuple[str, int, float, str] | None = None) -> int:
    """Run the command to its end, killed or not; its exit code, or minus the signal that ended it."""
    return _forked(folder, lambda: _command(["train", *command], when))


def _forked(folder: Path, action: Callable[[], int]) -> int:
    """Do something in a process of its own, in a folder; what it prints goes to `output.txt` there."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        os.chdir(folder)
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = action()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _expect(found: int, code: int, folder: Path) -> None:
    if found != code:
        raise RuntimeError(
            f"Expected exit code {code}, received {found}:\n{(folder / 'output.txt').read_text()[-4000:]}"
        )


def _query(folder: Path, question: str) -> list[tuple[Any, ...]]:
    file = folder / "mlflow.db"
    if not file.exists():
        return []
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as database:
        return database.execute(question).fetchall()


def _statuses(folder: Path) -> dict[str, int]:
    return dict(
        Counter(status for (status,) in _query(folder, "SELECT status FROM runs WHERE lifecycle_stage = 'active'"))
    )


def _not_as_it_should_be(folder: Path, whole: Path) -> list[str]:
    """What MLflow lacks, or has wrongly."""
    wrong = []
    if (statuses := _statuses(folder)) != {"FINISHED": 1}:
        wrong.append(f"{folder.name}: {statuses}")
    curve = (
        "SELECT step, value FROM metrics JOIN runs USING (run_uuid) WHERE key = 'val/loss' "
        "AND lifecycle_stage = 'active' ORDER BY step"
    )
    found, expected = _query(folder, curve), _query(whole, curve)
    if found != expected or not expected:
        wrong.append(f"{folder.name}: val/loss is {found}, not {expected}")
    return wrong


def _doctor() -> int:
    from tnt_exp.cli.doctor import main as doctor

    return doctor(["--fix"])


def _command(arguments: list[str], when: tuple[str, int, float, str] | None) -> int:
    """The command itself, with a signal to this process some time after the nth call of what the moment is of."""
    from tnt_exp.cli import main as command

    if when:
        _arm(*when)
    return command(arguments)


def _arm(moment: str, nth: int, later: float, name: str) -> None:
    calls = 0

    def armed(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == nth:
                threading.Thread(target=fire, daemon=True).start()
            return function(*given, **named)

        return called

    def fire() -> None:
        time.sleep(later)
        os.kill(os.getpid(), signal.Signals[name])

    if moment == "data loading":
        from tnt_exp import data

        data.load_dataset = armed(data.load_dataset)
    elif moment == "mid-step":
        from tnt_exp.training import trainer

        compile_train_step = trainer.compile_train_step

        def compiled(*given: Any, **named: Any) -> Any:
            step = compile_train_step(*given, **named)
            return Armed(step, armed(step))

        trainer.compile_train_step = compiled
    elif moment == "checkpoint write":
        from tnt_exp.training import checkpoint

        checkpoint.atomic_write = armed(checkpoint.atomic_write)
    elif moment == "evaluation":
        from tnt_exp.training import trainer

        trainer.evaluate = armed(trainer.evaluate)
    elif moment == "tracking flush":
        import mlflow

        mlflow.MlflowClient.log_batch = armed(mlflow.MlflowClient.log_batch)


class Armed:
    """A step whose calls are counted."""

    def __init__(self, step: Any, call: Callable[..., Any]) -> None:
        self.sync_to_model, self.sync_from_model, self._call = step.sync_to_model, step.sync_from_model, call

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._call(*given, **named)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
