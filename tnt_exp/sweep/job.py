"""One job where another launcher (Ray, submitit, joblib) has put it: one fresh process, as everywhere."""

import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tnt_exp.sweep.ending import Cause, Ending
from tnt_exp.sweep.process import JobProcess


def job(cfg: DictConfig) -> None:
    """The task that Hydra hands to its launcher.

    What was composed is not looked at: the job's folder holds what was frozen when the sweep began.
    """
    process = JobProcess(Path(HydraConfig.get().runtime.output_dir))
    try:
        while process.poll() is None:
            time.sleep(0.1)
    except BaseException:  # stopped: the job gets the time to write a checkpoint
        process.stop(Ending(Cause.stopped, "stopped with the sweep"))
        while process.poll() is None:
            time.sleep(0.1)
        raise
