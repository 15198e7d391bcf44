"""Type generated command lines, valid, nearly valid and hostile, and check how each is answered.

make command-lines                                   1,000 lines
python tests/command_lines.py --count 50 --seed 3    50 others

Every line must end with exit code 0 or 2 and without a traceback. Code 2 comes with exactly one line on standard error,
and leaves nothing in the working folder. A line that would train stops where TensorFlow would be imported.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# What would train reports success instead; everything before is the real program.
_PROGRAM = """
import sys, types
module = types.ModuleType("tnt_exp.run")
module.run_experiment = lambda config, *, folder, overrides=None, tags=None, wait=0.0: 0
module.damaged_files = lambda folder: []
module.MAY_CHANGE_ON_RESUME = ()
sys.modules["tnt_exp.run"] = module
from tnt_exp.cli import main
sys.exit(main(sys.argv[1:]))
"""

_VALID = [
    *("model.depth=8", "model=tiny", "model=tnt_s", "optimizer=lion", "optimizer.learning_rate=3e-4", "seed=7"),
    *("trainer.epochs=3", "trainer.batch_size=32", "schedule=cosine", "augmentation=crop_flip", "tracking=off"),
    *("augmentation=[crop_flip,mixing]", "experiment=digits", "run.name=first", "trainer.backend=jax"),
    *("dataset.train_limit=500", "model.embed_dim=48", "trainer.precision=float32", "dataset=digits"),
    *("tracking.experiment=other", "trainer.checkpoint.every=5", "optimizer.ema=0.99", "trainer.patience=null"),
]
_NEARLY = [
    *("model.depht=8", "modle=tiny", "model=tyni", "model.depth=eight", "model.depth=-1", "model.depth=", "seed=one"),
    *("optimizer.learning_rate=0", "optimizer.learning_rate=1,5", "trainer.batch_size=0", "trainer.epochs=1e3"),
    *("dataset=image_folder", "dataset.path=nowhere", "dataset=npz", "trainer.precision=float8", "model.heads=5"),
    *("augmentation=[crop_flip", "augmentation=crop-flip", "--epochs=3", "--lr", "model", "model:tiny", "depth=8"),
    *("trainer.backend=mxnet", "tracking.uri=htp://server", "tracking.uri=sqlite:///no/such/folder/x.db"),
    *("trainer.devices=0", "launcher.slots=2", "sweep=bayes", "+model.new=1", "~model.depth", "++model.depth=x"),
    *("model.embed_dim=47", "dataset.train_limit=0", "hydra/launcher=joblib", "trainer.resume=maybe", "run=name"),
]
_TEXTS = [
    *("1.10", "007", "true", "null", "2024_01", "a b", " a", "a,b", "a=b", "a&b", "it's", '"quoted"', "[x]", "{x: 1}"),
    *(
        "ü",
        "日本",
        "🙂",
        "a/b",
        "../up",
        "..",
        ".",
        "/",
        "~",
        "$HOME",
        "${oc.env:HOME}",
        "${x",
        "}",
        "\\",
        "a\\,b",
        "#",
    ),
    *("%s", "?", "*", "-", "--", "@", "a:b", "C:\\data", "a\nb", "a\tb", "x" * 300, "\u202e", "e\u0301", "(x)", "<x>"),
    *("!!python/object/apply:os.system", "_target_=os.system", "{_target_: os.system}", "range(1,3)", "glob(*)", "|"),
    *("choice(a,b)", "file:///etc/passwd", "https://user:SECRET@host/x", "[" * 50, "'", "a'b\"c", "on", "1e-3", "0x10"),
]
_TEXT_KEYS = ["run.name", "dataset.path", "tracking.uri", "tracking.experiment", "tracking.register", "model.weights"]
_OTHER_VERBS = [
    *("evaluate", "predict", "explain", "export", "resume", "reproduce", "report", "sync", "doctor", "models"),
    *("sweep status", "sweep resume", "run", "help", "trian", "--version", "ui --port 99999999"),
]


@dataclass(frozen=True)
class Answer:
    """How a command line was answered: its words, exit code, seconds, and what is wrong, if anything."""

    words: tuple[str, ...]
    code: int
    seconds: float
    problem: str | None


def generate(source: random.Random) -> list[str]:
    """Return the words of one command line."""
    kind = source.random()
    if kind < 0.1:
        return [*source.choice(_OTHER_VERBS).split(), *source.sample(_TEXTS + _NEARLY, source.randrange(3))]
    words = source.sample(_VALID, source.randrange(1, 4))
    if kind < 0.55:
        words += source.sample(_NEARLY, source.randrange(1, 3))
    elif kind < 0.9:
        words += [f"{source.choice(_TEXT_KEYS)}={source.choice(_TEXTS)}" for _ in range(source.randrange(1, 3))]
        words += source.sample(_TEXTS, 1) if source.random() < 0.2 else []
    source.shuffle(words)
    flags = source.choice([[], [], [], ["--cfg", "job"], ["-m", "--dry-run"], ["--info", "config"]])
    return ["train", *flags, *words]


def answer(words: list[str], timeout: float = 60) -> Answer:
    """Type the command line in an empty folder, and check the answer."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROGRAM, *words],
            cwd=folder,
            env=os.environ | {"HOME": folder, "PYTHONIOENCODING": "utf-8", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )
        seconds = time.monotonic() - begin
        left = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))
    problem = None
    if "Traceback (most recent call last)" in done.stdout + done.stderr:
        problem = f"a traceback: {done.stderr.strip().splitlines()[-1]}"
    elif done.returncode not in (0, 2):
        problem = f"exit code {done.returncode}: {done.stderr[-200:]}"
    elif done.returncode == 2 and not done.stderr.startswith("tnt-exp: "):
        problem = f"no reason: {done.stderr[-200:]!r}"
    elif done.returncode == 2 and left:
        problem = f"a refused command leaves {left}"
    elif "SECRET" in done.stdout + done.stderr:
        problem = "prints a password"
    return Answer(tuple(words), done.returncode, seconds, problem)


def main(arguments: list[str]) -> int:
    """Type the command lines and print a summary; return 1 if any is answered wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    source, answers = random.Random(options.seed), list[Answer]()
    for number in range(options.count):
        answers.append(found := answer(generate(source)))
        if found.problem:
            print(f"{number}: {found.problem}\n    {found.words}", flush=True)
    print(f"{len(answers)} command lines, exit codes {dict(Counter(found.code for found in answers))}")
    for code in (0, 2):
        seconds = [found.seconds for found in answers if found.code == code]
        if seconds:
            print(f"exit code {code}: median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    wrong = sum(found.problem is not None for found in answers)
    print(f"{wrong} answered wrongly")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
