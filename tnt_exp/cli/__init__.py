"""The command line: `tnt-exp VERB ...`.

Exit codes: 0 done, 1 a run failed, 2 the input cannot be used; 130, 143 and 75: stopped by SIGINT, SIGTERM, SIGUSR1.
"""

import argparse
import atexit
import gc
import importlib
import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from tnt_exp import __version__
from tnt_exp.credentials import hide_passwords, without_passwords
from tnt_exp.errors import UserError, describe_system_error

# Verb: (module with `main(arguments) -> exit code`, one line of help). A module is imported when its verb is called.
VERBS = {
    "train": ("tnt_exp.cli.train", "compose an experiment, train it, log it (-m: sweep)"),
    "run": ("tnt_exp.cli.run", "run what a run folder's config.yaml says, in that folder"),
    "resume": ("tnt_exp.cli.resume", "continue a run (run folder or MLflow run id) with its own configuration"),
    "reproduce": ("tnt_exp.cli.reproduce", "run a finished run again in a new folder and compare, bit for bit"),
    "doctor": ("tnt_exp.cli.doctor", "find dead runs marked RUNNING, misplaced runs, lost artifacts (--fix: repair)"),
    "sweep": ("tnt_exp.cli.sweep", "show a sweep (status FOLDER) or continue it (resume FOLDER)"),
    "list": ("tnt_exp.cli.list", "runs of a folder, the newest first: list [FOLDER] [KEY=VALUE ...]"),
    "compare": ("tnt_exp.cli.compare", "what differs between runs, and whether a difference is significant"),
    "report": ("tnt_exp.cli.report", "write one HTML page of a sweep (FOLDER or MLflow sweep id)"),
    "models": ("tnt_exp.cli.models", "table of model presets: parameters, MACs, memory"),
    "evaluate": ("tnt_exp.cli.evaluate", "measure a finished run's model on its own test images or on others"),
    "predict": ("tnt_exp.cli.predict", "classify images with a finished run's model: files, folders, globs, a list"),
    "explain": ("tnt_exp.cli.explain", "draw the attention of a finished run's model on an image"),
    "export": ("tnt_exp.cli.export", "write a finished run's model for other runtimes, verified by each"),
    "sync": (
        "tnt_exp.cli.sync",
        "send MLflow what it missed while it could not be reached (--to: copy runs to another store)",
    ),
    "schema": ("tnt_exp.cli.schema", "print the JSON Schema of YAML files, for completion and checks in editors"),
    "ui": ("tnt_exp.cli.ui", "open the MLflow UI on this folder's runs"),
}

_HELP = f"""\
tnt-exp {__version__}: compose an experiment from YAML groups, train a TNT, find every run in MLflow.

usage: tnt-exp VERB ...

{chr(10).join(f"  {verb:<9} {line}" for verb, (_, line) in VERBS.items())}

  tnt-exp VERB --help          more on a verb; `tnt-exp train --help` lists groups and keys

first steps:
  tnt-exp train                                     train on handwritten digits (no download)
  tnt-exp train model.depth=8 optimizer=sgd         change a value, choose another option of a group
  tnt-exp train -m model.embed_dim=48,64,96         one run per value
  tnt-exp ui                                        compare the runs
"""


class ArgumentParser(argparse.ArgumentParser):
    """Reports arguments that cannot be used in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        flag = re.match(r"unrecognized arguments: --([a-z_.]+)", message)
        takes_keys = any("KEY=VALUE" in str(action.metavar) for action in self._actions)
        hint = f". Keys have no dashes: {flag[1]}=VALUE" if flag and takes_keys else ""
        raise UserError(f"{self.prog.removeprefix('tnt-exp ')}: {message}{hint} (`{self.prog} --help` describes them)")


def collect_less_garbage() -> None:
    """Let Python's garbage collector run less often in this process, and not at its end.

    Imports and traced graphs are millions of objects that stay: to look for cycles among them again and again takes a
    third of the time of a short command.
    """
    gc.set_threshold(100_000, 20, 100)  # instead of 700, 10, 10
    atexit.register(gc.freeze)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if os.name == "nt":
        print("tnt-exp: expected Linux or macOS (locks, signals, forks), received Windows. Use WSL 2.", file=sys.stderr)
        return 2
    from tnt_exp.signals import exiting

    collect_less_garbage()
    _open_missing_streams()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own backend cannot be imported here
    arguments = without_passwords(sys.argv[1:] if arguments is None else arguments)
    sys.argv = without_passwords(sys.argv)
    if arguments and arguments[0] in ("-sc", "--shell-completion"):
        arguments = _completion(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb == "--version":
        print(__version__)
        return 0
    try:
        if verb not in VERBS:
            raise UserError(_unknown(verb))
        with exiting():
            code: int = importlib.import_module(VERBS[verb][0]).main(rest)
        return code
    except UserError as error:
        print(f"tnt-exp: {hide_passwords(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has closed the pipe: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        line = describe_system_error(error)
        if line is None:
            raise
        print(f"tnt-exp: {hide_passwords(line)}", file=sys.stderr)
        return 1


def _open_missing_streams() -> None:
    """Open standard streams that are closed (`>&-`, as some schedulers do), so that no other file takes their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":  # letters that its encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")


def _completion(arguments: list[str]) -> list[str]:
    """Return the arguments of `train` for a question of the completion script, which knows no verbs."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(" ", 2)
    if len(words) > 1 and words[1] == "train":
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        os.environ["COMP_POINT"] = str(max(0, int(os.environ.get("COMP_POINT", len(line))) - len("train ")))
    return ["train", *arguments]


def _unknown(verb: str) -> str:
    import difflib

    close = difflib.get_close_matches(verb, VERBS, n=1)
    hint = f" Did you mean {close[0]}?" if close else f" Did you mean: tnt-exp train {verb}?" if "=" in verb else ""
    return f"{verb}: expected one of {', '.join(VERBS)}, received an unknown verb.{hint}"
