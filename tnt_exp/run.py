"""One run, from a checked configuration to a complete run folder."""

import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import psutil

from tnt_exp.config import Config, InputError
from tnt_exp.experiment import Experiment
from tnt_exp.run_folder import RunFolder

log = logging.getLogger("tnt_exp")


class Terminated(BaseException):
    """SIGTERM arrived."""


def run(config: Config, *, folder: str, overrides: Sequence[str], tags: Mapping[str, str] | None = None) -> int:
    """Run an experiment; every ending is written to the run folder and told to MLflow.

    Args:
        config: Composed and checked.
        folder: The run folder.
        overrides: What the command line changed.
        tags: Further tags of its MLflow run; `sweep_id` where it is one of many.

    Returns:
        The exit code: 0 finished, 1 failed, 2 the input cannot be used, 130 SIGINT, 143 SIGTERM.
    """
    begin = psutil.Process().create_time()
    run_folder = RunFolder(folder)
    run_folder.write_config(config, overrides)
    result: dict[str, Any] = {"status": "FAILED", "metrics": {}}
    log.info("run folder %s", run_folder.path)
    experiment = Experiment(config, run_folder, result, dict(tags or {}))
    try:
        with sigterm_raises():
            experiment.train()
        result["status"] = "FINISHED"
        code = 0
    except InputError as error:
        result["error"] = str(error)
        print(f"tnt-exp: {error}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, Terminated) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else 143
        name = "SIGINT" if code == 130 else "SIGTERM"
        result |= {"status": "KILLED", "error": f"stopped by {name}"}
        log.warning("stopped by %s", name)
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
        # The whole story goes to the log; a person at a terminal is told the reason last.
        log.exception("the run failed")
        code = 1
    result["total_seconds"] = round(time.time() - begin, 3)
    run_folder.write_result(result)
    experiment.close()
    if code in (0, 1):
        log.info(experiment.where_to_look())
    return code


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within it, SIGTERM raises `Terminated`, so that what was begun is brought to an end."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
