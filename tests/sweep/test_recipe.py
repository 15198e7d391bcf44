"""The study of ingredients that ships: any mix of them is a run, and all runs cost the same arithmetic."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path

from tnt_exp.config.compose import conf_dir, register
from tnt_exp.model import cost
from tnt_exp.preflight import preflight
from tnt_exp.sweeps.plan import TrialComposer
from tnt_exp.sweeps.search_space import SearchSpace


def test_every_mix_of_ingredients_is_a_run_of_equal_arithmetic() -> None:
    register()
    settings = yaml.safe_load((conf_dir() / "sweep" / "recipe.yaml").read_text())
    space = SearchSpace([], settings["space"], ConfigLoaderImpl(create_config_search_path(str(conf_dir()))))
    assert space.values("seed") == ["0", "1", "2"]
    random, compose = np.random.default_rng(0), TrialComposer()
    values = {key: space.values(key) for key in space.swept}
    first = {key: options[0] for key, options in values.items()}
    # Each value by itself, and forty mixes.
    mixes = [first | {key: value} for key, options in values.items() for value in options]
    mixes += [{key: str(random.choice(options)) for key, options in values.items()} for _ in range(40)]
    costs = set()
    for mix in mixes:
        config = compose(space.spec(mix).overrides)
        preflight(config)
        costs.add(cost.macs(config.model, 100, 3))
        assert (config.model.image_size, config.trainer.epochs, config.dataset.train_limit) == (32, 4, 12_500)
    assert max(costs) / min(costs) < 1.05


def test_the_study_is_shown_without_being_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tnt_exp", "train", "-m", "sweep=recipe", "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "24 trials" in done.stdout
    assert "optimizer.ema" in done.stdout
    assert list(tmp_path.iterdir()) == []
