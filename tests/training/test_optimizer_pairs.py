"""Every pair of values of the keys that shape an update, for each optimizer, against formulas in NumPy, float64."""

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tnt_exp.config.compose import compose

MODEL = ["model=tiny", "model.depth=1"]
STEPS, STEPS_PER_EPOCH, EPOCHS = 10, 2, 5
RATE = {"adamw": 0.03, "sgd": 0.5, "lion": 0.02, "muon": 0.1}

# Values of each factor; those of one factor exclude each other.
FACTORS: dict[str, list[dict[str, Any]]] = {
    "decay": [
        {"optimizer.weight_decay": 0},
        {"optimizer.weight_decay": 0.5},
        {"optimizer.weight_decay": 0.5, "optimizer.decay": "all"},
    ],
    "schedule": [
        {"schedule": "constant"},
        {"schedule": "cosine", "schedule.warmup_epochs": 2, "schedule.final_learning_rate": 1e-3},
        {"schedule": "constant", "schedule.name": "step", "schedule.step_epochs": "[1,3]", "schedule.step_factor": 0.5},
    ],
    "freeze": [{}, {"trainer.freeze": "backbone"}, {"trainer.freeze": "all_but_head"}],
    "moments": [
        {},
        {"optimizer.beta_1": 0.5, "optimizer.beta_2": 0.7, "optimizer.epsilon": 1e-2, "optimizer.momentum": 0.5},
        {"optimizer.nesterov": "true", "optimizer.momentum": 0.8},
    ],
    "ema": [{}, {"optimizer.ema": 0.7}],
    "accumulation": [{}, {"optimizer.accumulation": 3}],
    "clip": [{}, {"optimizer.clip_norm": 5}],
    "layer_decay": [{}, {"trainer.layer_decay": 0.6}],
    "rollback": [{}, {"rate_scale": 0.5}],
}


@functools.cache
def rows_of_all_pairs() -> list[tuple[int, ...]]:
    """Choices of a value per factor, so that every pair of values of two factors is in one of them (greedy)."""
    counts = [len(values) for values in FACTORS.values()]

    every = {
        row: {(a, row[a], b, row[b]) for a, b in itertools.combinations(range(len(row)), 2)}
        for row in itertools.product(*map(range, counts))
    }
    missing, rows = set().union(*every.values()), []
    while missing:
        rows.append(max(every, key=lambda row: len(every[row] & missing)))
        missing -= every[rows[-1]]
    return rows


class Reference:
    """The weights of a network under an optimizer, by the formulas of its paper and of Keras' documentation."""

    def __init__(self, config: Any, weights: dict[str, np.ndarray], rate_scale: float) -> None:
        self.config, self.weights, self.rate_scale = config, weights, rate_scale
        self.sums = {path: np.zeros_like(value) for path, value in weights.items()}
        self.first = {path: np.zeros_like(value) for path, value in weights.items()}
        self.second = {path: np.zeros_like(value) for path, value in weights.items()}
        self.updates = 0
        self.averages: dict[str, np.ndarray] = {}

    def rate(self, step: int) -> float:
        schedule, peak = self.config.schedule, self.config.optimizer.learning_rate
        warmup, last, name = schedule.warmup_epochs * STEPS_PER_EPOCH, STEPS - 1, schedule.name.value
        if step < warmup:
            return schedule.warmup_learning_rate + step / warmup * (peak - schedule.warmup_learning_rate)
        if name == "step":
            return peak * (1 if step < 2 else 0.5 if step < 6 else 0.25)
        if name == "constant":
            return peak
        part = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (last - warmup))
        return schedule.final_learning_rate + part * (peak - schedule.final_learning_rate)

    def step(self, step: int, gradients: dict[str, np.ndarray]) -> None:
        optimizer, trainer, depth = self.config.optimizer, self.config.trainer, self.config.model.depth
        for path, gradient in gradients.items():
            self.sums[path] += gradient
        if (step + 1) % optimizer.accumulation:
            return
        gradients = {path: self.sums[path] / optimizer.accumulation for path in gradients}
        self.sums = {path: np.zeros_like(value) for path, value in self.sums.items()}
        if optimizer.clip_norm:
            norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
            gradients = {path: g * min(1, optimizer.clip_norm / norm) for path, g in gradients.items()}
        self.updates += 1
        for path, gradient in gradients.items():
            rate, weight = self.rate(step) * self.rate_scale, self.weights[path]
            decay = optimizer.weight_decay if optimizer.decay.value == "all" or self.is_kernel(path) else 0
            moved = weight - rate * decay * weight + self.change(path, gradient, rate)
            factor = trainer.layer_decay ** (depth + 1 - self.depth(path))
            self.weights[path] = weight + factor * (moved - weight)
        if optimizer.ema:
            momentum = optimizer.ema if self.updates > 1 else 0
            for path, weight in self.weights.items():
                self.averages[path] = momentum * self.averages.get(path, 0) + (1 - momentum) * weight

    def is_kernel(self, path: str) -> bool:
        return self.weights[path].ndim > 1 and "position" not in path and "token" not in path

    def depth(self, path: str) -> int:
        if "embedding" in path:
            return 0
        return 1 if "/block_1/" in path else 2

    def change(self, path: str, gradient: np.ndarray, rate: float) -> np.ndarray:
        config, first, second, t = self.config.optimizer, self.first, self.second, self.updates
        name = config.name.value
        if name == "sgd":
            first[path] = config.momentum * first[path] - rate * gradient
            return config.momentum * first[path] - rate * gradient if config.nesterov else first[path]
        if name == "lion":
            direction = np.sign(config.beta_1 * first[path] + (1 - config.beta_1) * gradient)
            first[path] = config.beta_2 * first[path] + (1 - config.beta_2) * gradient
            return -rate * direction
        if name == "muon" and "/block_" in path and self.is_kernel(path):
            first[path] = config.momentum * first[path] + gradient
            direction = gradient + config.momentum * first[path] if config.nesterov else first[path]
            return -rate * 0.2 * math.sqrt(max(gradient.shape)) * orthogonal(direction)
        first[path] = config.beta_1 * first[path] + (1 - config.beta_1) * gradient
        second[path] = config.beta_2 * second[path] + (1 - config.beta_2) * gradient**2
        rate *= math.sqrt(1 - config.beta_2**t) / (1 - config.beta_1**t)
        return -rate * first[path] / (np.sqrt(second[path]) + config.epsilon)


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Muon's polynomial of the singular values, five times."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (math.sqrt((values**2).sum()) + 1e-7)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


def compiled(step: Any) -> Any:
    """The update, on JAX compiled once: it would compile the conditions of accumulation at every call."""
    import keras

    if keras.config.backend() != "jax":
        return step.update
    import jax

    variables = [*step.optimizer.vectors, *step.optimizer.variables]

    @jax.jit
    def pure(values: Any, gradients: Any, rate: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))) as scope:
            step.update(gradients, rate)
        return [scope.get_current_value(variable) for variable in variables]

    def update(gradients: Any, rate: float) -> None:
        values = pure([variable.value for variable in variables], gradients, rate)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    return update


@pytest.fixture(scope="module")
def network() -> Any:
    from tnt_exp import model

    config = compose([*MODEL, "model.embed_dim=4", "model.inner_dim=4", "model.mlp_ratio=2"])
    return model.build(config.model, 3, 1)


# On JAX and PyTorch those two whose updates are not the simplest.
@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=pytest.mark.backend) if name in ("adamw", "muon") else name for name in RATE],
)
def test_each_pair_of_keys_updates_as_the_formulas_say(algorithm: str, network: Any, tmp_path: Path) -> None:
    from keras import ops

    from tnt_exp import model
    from tnt_exp.data import Dataset, Split
    from tnt_exp.run_folder import RunFolder
    from tnt_exp.signals import Signals
    from tnt_exp.training.device import Device
    from tnt_exp.training.train_step import StepComputation
    from tnt_exp.training.trainer import Trainer

    split = Split(np.zeros((STEPS_PER_EPOCH, 8, 8, 1), np.uint8), np.zeros(STEPS_PER_EPOCH, np.int32))
    dataset = Dataset("none", split, None, split, ("a", "b", "c"), "digest", 0)
    device = Device("", "cpu", "", 1, xla=False, steps_per_dispatch=1, precision="float32")
    common = {"optimizer": algorithm, "optimizer.nesterov": "false", "trainer.batch_size": 1}
    common |= {"optimizer.learning_rate": RATE[algorithm], "trainer.epochs": EPOCHS}
    draw = np.random.default_rng(0)
    for row in rows_of_all_pairs():
        chosen = [FACTORS[factor][value] for factor, value in zip(FACTORS, row, strict=True)]
        keys = {key: value for part in chosen for key, value in part.items()}
        scale = keys.pop("rate_scale", 1.0)
        config = compose([*MODEL, *(f"{key}={value}" for key, value in (common | keys).items())])
        model.freeze(network.network, config.trainer.freeze.value)
        for variable in network.network.trainable_variables:
            variable.assign(draw.normal(size=variable.shape))
        variables = list(network.trainable_variables)
        start = {variable.path: ops.convert_to_numpy(variable).astype(np.float64) for variable in variables}
        assert len(start) == {"nothing": 42, "backbone": 4, "all_but_head": 2}[config.trainer.freeze.value]

        trainer = Trainer(config, network, dataset, device, RunFolder(tmp_path), Signals(), {})
        trainer.state.rate_scale = scale
        step = StepComputation(network.network, trainer.augmentation, trainer.optimizer)
        update, reference = compiled(step), Reference(config, dict(start), scale)
        for number in range(STEPS):
            gradients = {path: draw.normal(size=value.shape).astype(np.float32) for path, value in start.items()}
            flat = trainer.optimizer.flatten([ops.convert_to_tensor(gradient) for gradient in gradients.values()])
            update(flat, trainer._learning_rate(number))
            reference.step(number, {path: gradient.astype(np.float64) for path, gradient in gradients.items()})
        trainer.optimizer.copy_to_variables()

        averages = trainer.optimizer.ema_values()
        assert (averages is None) is (config.optimizer.ema is None)
        found = {"weights": [ops.convert_to_numpy(variable) for variable in variables]}
        found["averages"] = [ops.convert_to_numpy(value) for value in averages or []]
        for name, values in found.items():
            for path, value in zip(start, values, strict=bool(values)):
                expected = getattr(reference, name)[path]
                # Relative to where a weight came from: near zero, float32 has lost the digits already.
                largest = np.abs([start[path], expected]).max()
                np.testing.assert_allclose(value, expected, 1e-5, 1e-5 * largest, err_msg=f"{name} {path} {keys}")
                assert np.abs(expected - start[path]).max() > 1e-3
