"""Tell MLflow the end of a run whose process did not live to tell it."""

import logging
from pathlib import Path

from tnt_exp.run_folder import ARTIFACTS
from tnt_exp.tracking.delivery import first_line, sync
from tnt_exp.tracking.spool import Spool, artifact

log = logging.getLogger("tnt_exp")


def end(folder: Path, status: str) -> None:
    """Say what a kill between the result and MLflow left unsaid, and deliver what waits.

    Args:
        folder: The run folder, with a result.
        status: What the result says: FINISHED, FAILED or KILLED.
    """
    spool = Spool(folder)
    if spool.run is None:  # MLflow has never heard of it
        return
    if spool.status != status:
        for name in ARTIFACTS:
            if (folder / name).exists():
                spool.append(**artifact(folder, name))
        ended = int((folder / "result.json").stat().st_mtime * 1000)
        spool.append("status", status=status, time=ended)
    waiting = spool.waiting()
    if not waiting:
        return
    if error := sync(folder):
        log.warning("MLflow is away (%s): %d messages wait in %s", first_line(error), spool.waiting(), folder)
    else:
        log.info("MLflow was told the rest: %d messages", waiting)
