"""Walk the lives of runs at random, and compare after each event what the run folder, MLflow and the terminal say.

make lives                                   200 lives on a stub of the training step, 10 with real training
python tests/lives.py --lives 20 --real 0    fewer

An event starts the command, kills it at a random moment, asks it to stop, gives it more or fewer epochs or another
store, copies the run folder, deletes the store, or calls `tnt-exp sync`. Some runs stop early, some roll back. The
curve that is expected is computed here, from the epoch alone; on real training it is that of a run that nothing
disturbed.
"""

import argparse
import contextlib
import csv
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import stub_step
import torture
import yaml
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from stub_step import RATE, accuracy_at, value_at

from tnt_exp.run_folder import flatten

MOST_EPOCHS = 9
RUN = [
    *("model=tiny", "model.depth=1", "dataset.train_limit=200", "trainer.batch_size=40", "schedule=constant"),
    *(f"optimizer.learning_rate={RATE}", "trainer.checkpoint.steps=3", "tracking.system_metrics=false"),
    *("tracking.log_model=false", "run.name=run", "trainer.deterministic=true"),
]
_COUNTED = ("train/", "val/", "test/", "best/")
_TIMES = ("train/images_per_second", "train/waiting", "train_seconds", "total_seconds", "images_per_second")


# ---------------------------------------------------------------- A life


class Life(RuleBasedStateMachine):
    """One run, from its first start on."""

    stub = True
    reference: list[dict[str, str]] = []  # rows of the undisturbed run, if training is real
    events: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="life-"))
        self.folder, self.store = self.home / "multirun/runs/run", "mlflow.db"
        self.known = False  # whether MLflow must have everything
        self.lost_store = False
        self.copies = 0

    @initialize(
        epochs=st.integers(1, 5),
        patience=st.sampled_from([None, None, 2, 3]),
        nan_epoch=st.sampled_from([None, None, 1, 2, 3]),
        select=st.sampled_from(["best", "last"]),
    )
    def begin(self, epochs: int, patience: int | None, nan_epoch: int | None, select: str) -> None:
        self.epochs, self.patience = epochs, patience
        self.nan_epoch = nan_epoch if self.stub else None
        self.options = [f"trainer.patience={patience or 'null'}", f"trainer.select={select}", "trainer.on_nan=rollback"]
        self._start("start")

    @rule()
    def start(self) -> None:
        self._start("start")

    @rule(
        moment=st.sampled_from(torture.MOMENTS),
        nth=st.integers(1, 6),
        later=st.floats(0, torture._LATER),
        name=st.sampled_from(["SIGKILL", "SIGKILL", "SIGTERM"]),
    )
    def kill(self, moment: str, nth: int, later: float, name: str) -> None:
        self._start(name, (moment, nth, later, name))

    @rule(more=st.integers(1, 3))
    def more_epochs(self, more: int) -> None:
        self.epochs = min(MOST_EPOCHS, self.epochs + more)
        self._start("more epochs")

    @rule()
    def fewer_epochs(self) -> None:
        trained = len(self._rows())
        if trained < 2:
            return
        before = (self.folder / "config.yaml").read_bytes(), (self.folder / "metrics.csv").read_bytes()
        code, output = self._call(["resume", str(self.folder), f"trainer.epochs={trained - 1}"])
        self.events["fewer epochs"] += 1
        assert (code, "trainer.epochs of at least" in output) == (2, True), output
        assert before == ((self.folder / "config.yaml").read_bytes(), (self.folder / "metrics.csv").read_bytes())

    @rule()
    def other_store(self) -> None:
        self.store = {"mlflow.db": "other.db"}.get(self.store, "mlflow.db")
        self._start("other store")

    @rule()
    def delete_store(self) -> None:
        self.events["store deleted"] += 1
        (self.home / self.store).unlink(missing_ok=True)
        self.known, self.lost_store = False, True

    @rule()
    def copy(self) -> None:
        """The folder is copied; the life continues in the copy, and the original stays as it is."""
        if self.copies == 2 or not (self.folder / "config.yaml").exists():
            return
        self.events["copied"] += 1
        self.copies += 1
        new = self.folder.with_name(f"copy{self.copies}")
        shutil.copytree(self.folder, new)
        self.folder = new
        self._start("continued in the copy")

    @rule()
    def sync(self) -> None:
        if not (self.folder / "mlflow.json").exists():
            return
        self.events["sync"] += 1
        code, output = self._call(["sync", str(self.folder)])
        assert code == (1 if self.lost_store else 0), output
        self.known = not self.lost_store

    def _start(self, event: str, when: tuple[str, int, float, str] | None = None) -> None:
        self.events[event] += 1
        changed = [f"trainer.epochs={self.epochs}", f"tracking.uri=sqlite:///{self.store}"]
        command = ["resume", str(self.folder), *changed] if self.copies else ["train", *RUN, *changed, *self.options]
        code, output = self._call(command, when)
        killed = code == -signal.SIGKILL
        assert code in (0, 143) or (killed and when), output
        self.known = not killed and (self.folder / "mlflow.json").exists()
        self.lost_store = self.lost_store and not self.known
        if code == 0:
            self._check_finished(output)

    def _call(self, arguments: list[str], when: tuple[str, int, float, str] | None = None) -> tuple[int, str]:
        (self.home / "output.txt").unlink(missing_ok=True)

        def action() -> int:
            if self.stub:
                stub_step.install(self.nan_epoch)
            return torture._command(arguments, when)

        code = torture._forked(self.home, action)
        return code, (self.home / "output.txt").read_text()

    # ------------------------------------------------------------ What must be true

    def _rows(self) -> list[dict[str, str]]:
        file = self.folder / "metrics.csv"
        return list(csv.DictReader(file.open())) if file.exists() else []

    @invariant()
    def the_curve_is_the_expected_one(self) -> None:
        for number, row in enumerate(self._rows(), 1):
            assert int(float(row["epoch"])) == number
            if self.stub:
                value = value_at(number, self.nan_epoch)
                found = [float(row[key]) for key in ("val/loss", "val/accuracy")]
                assert found == [1 / (1 + value), accuracy_at(value, 20)], (number, row)
            else:
                expected = self.reference[number - 1]
                assert all(row[key] == expected[key] for key in row if key.startswith(_COUNTED) and key not in _TIMES)

    @invariant()
    def mlflow_has_what_the_folder_has(self) -> None:
        if not self.known:
            return
        rows, found = self._rows(), self._mlflow()
        expected = {
            (key, int(float(row["epoch"]))): float(text)
            for row in rows
            for key, text in row.items()
            if text and key.startswith(_COUNTED)
        }
        result = json.loads((self.folder / "result.json").read_text())
        if result["metrics"]:
            expected |= {
                (key if key.startswith("test/") else f"best/{key}", 0): value
                for key, value in result["metrics"].items()
                if not key.startswith("train/")
            }
            expected |= {(f"test/recall/{name}", 0): value for name, value in result["class_accuracy"].items()}
        assert found["points"] == expected
        assert found["status"] == result["status"]
        config = flatten(yaml.safe_load((self.folder / "config.yaml").read_text()))
        assert found["params"] == {key: str(value) for key, value in config.items()}

    def _mlflow(self) -> dict[str, Any]:
        with contextlib.closing(sqlite3.connect(self.home / self.store, timeout=30)) as database:
            runs = database.execute(
                "SELECT run_uuid, status FROM runs JOIN tags USING (run_uuid) WHERE lifecycle_stage = 'active' "
                "AND tags.key = 'run_folder' AND tags.value = ?",
                (str(self.folder),),
            ).fetchall()
            assert len(runs) == 1, runs
            ((run, status),) = runs
            points = database.execute("SELECT key, step, value FROM metrics WHERE run_uuid = ?", (run,)).fetchall()
            params = database.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run,)).fetchall()
        kept = {(key, step): value for key, step, value in points if key.startswith(_COUNTED)}
        assert len(kept) == sum(key.startswith(_COUNTED) for key, _, _ in points), "a point twice"
        return {"status": status, "points": kept, "params": dict(params)}

    def _check_finished(self, output: str) -> None:
        """Compare the number of epochs, the kept epoch and the terminal with what the rules of early stopping give."""
        rows, result = self._rows(), json.loads((self.folder / "result.json").read_text())
        accuracies = [(float(row["val/accuracy"]), -float(row["val/loss"])) for row in rows]
        best = max(range(len(rows)), key=accuracies.__getitem__) + 1
        assert result["epoch"] == (best if "trainer.select=best" in self.options else len(rows))
        assert len(rows) == self.epochs or (self.patience and len(rows) - best >= self.patience), (len(rows), best)
        if "test      accuracy" in output:
            assert f"accuracy {result['metrics']['test/accuracy']:.4f}" in output

    def teardown(self) -> None:
        self.events["lives"] += 1
        if self.events["lives"] % 10 == 0:
            print(f"{self.events['lives']} lives without a fault", flush=True)
        shutil.rmtree(self.home, ignore_errors=True)


def walk(lives: int, *, stub: bool, events: int = 8, same: bool = False) -> Counter[str]:
    """Walk so many lives (the `same` each time), and return how often each event came; raise at the first fault."""
    torture.preload("tensorflow")
    machine = type("RandomLife", (Life,), {"stub": stub, "events": Counter(), "reference": []})
    if not stub:
        with tempfile.TemporaryDirectory() as folder:
            command = [*RUN, f"trainer.epochs={MOST_EPOCHS}", "tracking=off"]
            torture._expect(torture._start(Path(folder), command), 0, Path(folder))
            with (Path(folder) / "multirun/runs/run/metrics.csv").open() as file:
                machine.reference = list(csv.DictReader(file))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=lives,
            stateful_step_count=events,
            deadline=None,
            database=None,
            derandomize=same,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
    return machine.events


def main(arguments: list[str]) -> int:
    """Walk and print how often each event came."""
    parser = argparse.ArgumentParser(description="Walk the lives of runs at random.")
    parser.add_argument("--lives", type=int, default=200, help="on a stub of the training step (default 200)")
    parser.add_argument("--real", type=int, default=10, help="with real training (default 10)")
    parser.add_argument("--same", action="store_true", help="the same lives each time, as in the tests")
    options = parser.parse_args(arguments)
    for lives, stub in ((options.lives, True), (options.real, False)):
        if lives:
            events = walk(lives, stub=stub, same=options.same)
            print("stub" if stub else "real training", dict(events), flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.exit(main(sys.argv[1:]))
