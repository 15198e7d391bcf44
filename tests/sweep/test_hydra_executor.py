"""Sweeps beyond one machine, by launchers that exist: Ray's own cluster of two nodes, submitit's own local executor."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tnt_exp.sweeps.study import SweepStudy
from tnt_exp.sweeps.trial import TrialState

SMALL = ["model=tiny", "dataset.train_limit=256", "schedule.warmup_epochs=0", "tracking=off"]


def train(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tnt_exp", "train", "-m", *SMALL, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def study_in(folder: Path) -> SweepStudy:
    (found,) = folder.glob("multirun/sweeps/*/sweep.json")
    return SweepStudy.open(found.parent)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")  # Ray's own, in this process
def test_a_sweep_over_two_ray_nodes_outlives_one_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default 15: beside other tests its trials would starve
    # A head that runs nothing, and two nodes with a place each.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        process = train(
            tmp_path,
            "seed=range(3)",
            "trainer.epochs=3",
            "launcher=ray_cluster",
            f"launcher.ray.init.address={cluster.address}",
            "sweep.retries=2",
        )
        while len(list(tmp_path.glob("multirun/sweeps/*/*/metrics.csv"))) < 2:  # both nodes are at work
            time.sleep(0.1)
            assert process.poll() is None, process.communicate()[0]
        cluster.remove_node(nodes[0], allow_graceful=False)
        text, _ = process.communicate(timeout=500)
        assert process.returncode == 0, text
    finally:
        cluster.shutdown()
    study = study_in(tmp_path)
    assert [study.state(trial) for trial in study.trials] == [TrialState.finished] * 3
    assert "3 finished" in text


@pytest.mark.submitit
@pytest.mark.timeout(400)
def test_a_sweep_by_submitit_continues_after_its_supervisor_was_killed(tmp_path: Path) -> None:
    arguments = ["seed=1,2", "trainer.epochs=2", "launcher=submitit_local", "launcher.timeout_min=10"]
    process = train(tmp_path, *arguments)
    while not list(tmp_path.glob("multirun/sweeps/*/0/metrics.csv")):
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()[0]
    process.kill()
    process.communicate()
    process = train(tmp_path, *arguments)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    study = study_in(tmp_path)
    assert [study.state(trial) for trial in study.trials] == [TrialState.finished] * 2


@pytest.mark.submitit
def test_slurm_receives_the_options_of_the_command(tmp_path: Path) -> None:
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext, RunMode
    from omegaconf import OmegaConf

    from tnt_exp.config.compose import CONFIG_NAME, conf_dir, register
    from tnt_exp.sweeps.search_space import to_hydra_overrides

    register()
    overrides = [
        "launcher=submitit_slurm",
        "launcher.partition=gpu",
        "launcher.gpus_per_node=1",
        "launcher.timeout_min=90",
    ]
    hydra = Hydra.create_main_hydra2("train", create_config_search_path(str(conf_dir())))
    GlobalHydra.instance().clear()
    config = hydra.compose_config(
        CONFIG_NAME, to_hydra_overrides(overrides), RunMode.MULTIRUN, with_log_configuration=False
    )
    launcher: Any = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=None),  # type: ignore[arg-type]
        task_function=lambda cfg: None,
        config=config,
    )
    assert launcher._EXECUTOR == "slurm"
    results_ = {key: launcher.params[key] for key in ("partition", "gpus_per_node", "timeout_min")}
    assert json.dumps(results_) == '{"partition": "gpu", "gpus_per_node": 1, "timeout_min": 90}'
    assert OmegaConf.select(config, "hydra.launcher._target_").endswith("SlurmLauncher")
