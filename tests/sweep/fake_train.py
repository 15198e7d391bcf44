"""`tnt-exp run` with a fake training: real processes, folders, locks and results, no TensorFlow.

python fake_train.py --supervised FOLDER                     one trial
python fake_train.py --fork-server BACKEND CONNECTION        a server of such trials

`tracking.run_name` selects what the fake does.
"""

import importlib
import math
import os
import signal
import sys
import time
from pathlib import Path

from tnt_exp.cli.run import main
from tnt_exp.experiment import Experiment
from tnt_exp.sweeps import fork_server

FAILURES = {0: "exit", 1: "raise", 2: "kill", 3: "memory", 4: "hang"}


def objective(experiment: Experiment) -> float:
    """A smooth function with its maximum 1 at embed_dim 64, learning rate 1e-3, whatever the seed's small shift."""
    config = experiment.config
    width = (config.model.embed_dim - 64) / 64
    rate = math.log10(config.optimizer.learning_rate) + 3
    return 1 - width**2 / 4 - rate**2 / 4 + (config.seed - 1) * 1e-3


def train(experiment: Experiment) -> None:
    folder, config = experiment.folder.path, experiment.config
    with (folder / "begins").open("a") as begins:
        begins.write(f"{os.getpid()}\n")
    plan = config.tracking.run_name or ""
    if plan == "failures" and not (folder.parent / "repaired").exists():
        fail(FAILURES.get(config.seed, ""))
    if config.tracking.enabled:
        from tnt_exp.tracking.client import resolve_tracking_uri
        from tnt_exp.tracking.tracker import Tracker

        uri = resolve_tracking_uri(config.tracking.uri)
        name, tags = config.tracking.experiment, experiment.tags
        run_name = tags.pop("mlflow.runName", folder.name)
        experiment.tracker = Tracker.open(folder, uri, name, run_name, tags, experiment.result)
    if plan == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    value = objective(experiment)
    for epoch in range(1, config.trainer.epochs + 1):
        if plan.startswith("sleep"):
            time.sleep(float(plan.removeprefix("sleep")))
        row = {"epoch": epoch, "val/accuracy": value * epoch / config.trainer.epochs}
        experiment.folder.append_metrics(row)
        while plan == "wait" and not (folder.parent / "go").exists():
            time.sleep(0.05)
    experiment.result["metrics"] = {"val/accuracy": value, "test/accuracy": value}
    experiment.result["begins"] = len((folder / "begins").read_text().splitlines())


def fail(how: str) -> None:
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ArithmeticError("a sum that does not add up")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        hoard = bytearray(700 * 2**20)
        hoard[::4096] = b"x" * len(hoard[::4096])
        time.sleep(60)
    if how == "hang":
        time.sleep(600)


if __name__ == "__main__":
    Experiment.train = train  # type: ignore[method-assign]
    if Path("mlflow.db").exists():
        importlib.import_module("tnt_exp.tracking.tracker")
    fork_server.preload = lambda backend: None  # type: ignore[assignment]
    sys.exit(main(sys.argv[1:]))
