"""What a GPU is given, read in the program that JAX lowers without one: nothing that the host must answer for."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.jax

# In a process of its own, because the backend of this one is another. Lowers the step of an experiment for CUDA in both
# precisions, and compiles it for the processor.
_PROGRAM = """
import json, sys
import jax, keras, numpy as np
from tnt_exp import model
from tnt_exp.augmentation import Augmentation
from tnt_exp.config.compose import compose
from tnt_exp.training import optimizer
from tnt_exp.training.device import prepare_device
from tnt_exp.training.train_step import StepComputation, compile_train_step

config = compose([*sys.argv[1:], "trainer.backend=jax"])
prepare_device(config.trainer)
for platform, precision in (("cuda", "float32"), ("cuda", "mixed_bfloat16"), ("cpu", "float32")):
    keras.config.set_dtype_policy(precision)
    classifier = model.build(config.model, 100, 3)
    augmentation = Augmentation(
        config.augmentation, image_size=config.model.image_size, mean=config.model.mean, std=config.model.std,
        num_classes=100, label_smoothing=config.trainer.label_smoothing, seed=0, branching=platform == "cpu",
    )
    update = optimizer.build_optimizer(
        config.optimizer, classifier.trainable_variables, model.is_decayed, scale_loss=False
    )
    step = compile_train_step(StepComputation(classifier.network, augmentation, update), xla=True)
    images, labels = np.zeros((2, 8, 32, 32, 3), np.uint8), np.zeros((2, 8), np.int32)
    arguments = step._state, images, labels, np.int32(0), np.zeros(2, np.float32), np.float32(1)
    lowered = step._chunk.trace(*arguments).lower(lowering_platforms=(platform,))
    print(json.dumps({
        "name": f"{platform}, {precision}",
        "state": len(jax.tree.leaves(step._state)),
        "outputs": [value.dtype.name for value in jax.tree.leaves(lowered.out_info)],
        "program": lowered.compile().as_text() if platform == "cpu" else lowered.as_text(),
    }))
"""

# What is shipped, shrunk: the example's network with heads of full width, and all augmentation with split heads.
_EXPERIMENTS = {
    "the example": ["experiment=cifar100_keras_example", "model.depth=1"],
    "everything": [
        *("dataset=cifar100", "model=cifar_large", "model.depth=2", "model.attention_dropout=0.1"),
        *("augmentation=[randaugment,mixing]", "augmentation.erasing=0.25", "augmentation.mix_off_epochs=20"),
        *("optimizer.ema=0.9995", "schedule.warmup_epochs=10", "trainer.epochs=300", "trainer.batch_size=128"),
    ],
}
# How StableHLO and HLO write a call of the host and a transfer.
_HOST = (
    *("callback", "infeed", "outfeed", "host_transfer", "annotate_device_placement", "pinned_host"),
    *("stablehlo.send", "stablehlo.recv", " send(", " recv("),
)


@pytest.fixture(scope="module", params=_EXPERIMENTS.values(), ids=_EXPERIMENTS.keys())
def lowered(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The programs of an experiment by platform and precision."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *request.param],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {each["name"]: each for each in found}


@pytest.mark.parametrize("name", ["cuda, float32", "cuda, mixed_bfloat16", "cpu, float32"])
def test_step_never_asks_the_host_and_has_no_float64(lowered: dict[str, dict[str, Any]], name: str) -> None:
    program, outputs, state = (lowered[name][key] for key in ("program", "outputs", "state"))
    assert len(program) > 10_000
    assert [word for word in _HOST if word in program] == []
    assert not re.search(r"\bf64\b|xf64>", program)
    # Beside the state, which stays on the device, the step gives five sums.
    assert len(outputs) == state + 1
    assert "float64" not in outputs
    if name.startswith("cpu"):
        aliases = program.partition("input_output_alias={")[2].partition("}, entry_computation_layout")[0]
        assert aliases.count("alias)") == state
        return
    # The host of a GPU would read a condition in each step, and wait for it.
    assert "stablehlo.case" not in program
    assert "stablehlo.if" not in program
    # The memory of the state is given to the new state.
    assert program.count("tf.aliasing_output") + program.count("jax.buffer_donor") == state
    assert ("bf16" in program) == ("bfloat16" in name)
