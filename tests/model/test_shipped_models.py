"""The models that ship with the package are those of their cards."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import tnt_exp
from tnt_exp.finished_runs import find_run
from tnt_exp.model.weights_file import SHIPPED, shipped_models

_RECORD = Path(__file__).with_name("shipped_models.json")


def images() -> np.ndarray:
    """Eight fixed images of 32 px, uint8: coarse random patterns."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.backend
@pytest.mark.parametrize("name", shipped_models())
def test_logits_are_those_recorded_when_the_accuracy_was_measured(name: str) -> None:
    recorded = np.array(json.loads(_RECORD.read_text())[name])
    received = np.asarray(tnt_exp.load(name).predict(images(), verbose=0))
    np.testing.assert_allclose(received, recorded, atol=2e-3)


@pytest.mark.parametrize("name", shipped_models())
def test_card_says_what_the_run_measured(name: str) -> None:
    card, finished = (SHIPPED / name / "README.md").read_text(), find_run(name)
    metrics = finished.result["metrics"]
    for key in ("test/accuracy", "test/top5_accuracy"):
        assert f"{100 * metrics[key]:.1f} %" in card
    assert (SHIPPED / name / "model.safetensors").stat().st_size < 3e6
    config = yaml.safe_load((SHIPPED / name / "config.yaml").read_text())
    assert config["dataset"]["path"] is None
    assert len(finished.class_names) == 100
