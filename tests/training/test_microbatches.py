"""A batch in parts side by side is the batch."""

import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tnt_exp.model import microbatch
from tnt_exp.model.blocks import TNTBlock
from tnt_exp.model.dropout import dropout

DROPPING = ["model.mlp_dropout=0.2", "model.attention_dropout=0.2", "model.embedding_dropout=0.1"]


@given(images=st.integers(1, 600), values=st.integers(1, 10**7), streams=st.integers(0, 64))
def test_parts_are_equal_and_leave_no_core_without_need(images: int, values: int, streams: int) -> None:
    number = microbatch.microbatch_count(images, values, streams)
    assert images % number == 0
    if streams < 2:
        assert streams or number == 1
    elif images % streams == 0:
        assert number >= streams


@pytest.mark.parametrize(
    ("batch", "values", "expected"),
    [(128, 83_000, 8), (128, 24_600, 2), (64, 4_096, 2), (127, 4_096, 1)],
    ids=["the example", "cifar_fast", "digits", "a prime"],
)
def test_networks_that_were_measured_get_what_was_fastest(batch: int, values: int, expected: int) -> None:
    assert microbatch.microbatch_count(batch, values, streams=2) == expected


@pytest.mark.jax
@given(images=st.integers(1, 600), values=st.integers(1, 10**7), cores=st.integers(1, 64))
def test_jax_divides_what_does_not_fit_into_the_cache(images: int, values: int, cores: int) -> None:
    from tnt_exp.training.backends.jax import _CACHE_BYTES, microbatch_count

    number = microbatch_count(images, values, cores)
    assert images % number == 0
    assert (number == 1) == (images == 1 or 4 * values * images <= _CACHE_BYTES)
    assert microbatch_count(images, values, 0) == 1
    if number > 1 and images % cores == 0:
        assert number >= cores


@pytest.mark.jax
@pytest.mark.parametrize(
    ("batch", "values", "expected"),
    [(128, 84_100, 32), (128, 16_384, 8), (64, 4_096, 1), (16, 302_592, 16)],
    ids=["the example", "cifar100_15min", "digits", "TNT-S"],
)
def test_jax_divides_networks_that_were_measured(batch: int, values: int, expected: int) -> None:
    from tnt_exp.training.backends.jax import microbatch_count

    assert microbatch_count(batch, values, cores=2) == expected


@pytest.mark.backend
@pytest.mark.parametrize("whole_samples", [False, True])
def test_parts_drop_what_the_batch_drops(whole_samples: bool) -> None:
    x, seed = ops.ones((12, 5, 7)), np.array([3, 4], "int32")
    whole = ops.convert_to_numpy(dropout(x, 0.4, ops.convert_to_tensor(seed), 9, whole_samples))
    found = [
        ops.convert_to_numpy(dropout(x[:3], 0.4, ops.convert_to_tensor(np.append(seed, part)), 9, whole_samples))
        for part in range(4)
    ]
    np.testing.assert_array_equal(np.concatenate(found), whole)


def test_a_step_in_parts_is_the_step(make: Any, chunk: tuple[np.ndarray, np.ndarray]) -> None:
    from tnt_exp.training.backends.tensorflow import TensorFlowStep

    images, labels = chunk
    ends = []
    for streams in (0, 4):
        settings = ["augmentation=[crop_flip,mixing]", "model.drop_path=0.1", "optimizer=sgd", *DROPPING]
        classifier, _, step = make(*settings)
        step = TensorFlowStep(step._computation, xla=False, streams=streams)
        size = classifier.network.config.largest_tensor_size
        assert microbatch.microbatch_count(8, size, streams) == (4 if streams else 1)
        sums = sum(np.asarray(step(images[k : k + 2], labels[k : k + 2], k, [0.05, 0.05], 1.0)) for k in (0, 2))
        ends.append((sums, [ops.convert_to_numpy(variable) for variable in classifier.variables]))
    (whole, weights), (divided, others) = ends
    np.testing.assert_allclose(divided, whole, rtol=1e-5)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.backend
def test_a_step_of_jax_in_parts_is_the_step(
    make: Any, chunk: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    if keras.config.backend() != "jax":
        pytest.skip("the step of JAX")
    from tnt_exp.training.backends import jax

    images, labels = chunk
    ends = []
    for count in (1, 4):
        monkeypatch.setattr(jax, "microbatch_count", lambda *_, count=count: count)
        settings = ["augmentation=[crop_flip,mixing]", "model.drop_path=0.1", "optimizer=sgd", *DROPPING]
        classifier, _, step = make(*settings)
        sums = sum(np.asarray(step(images[k : k + 2], labels[k : k + 2], k, [0.05, 0.05], 1.0)) for k in (0, 2))
        step.sync_to_model()
        ends.append((sums, [ops.convert_to_numpy(variable) for variable in classifier.variables]))
    (whole, weights), (divided, others) = ends
    np.testing.assert_allclose(divided, whole, rtol=1e-5)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_predictions_in_parts_are_the_predictions(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    classifier, _, _ = make()
    whole = classifier.predict_on_batch(images)
    monkeypatch.setattr(microbatch, "parallel_streams", lambda: 3)
    classifier.predict_function = None  # Keras keeps what it compiled
    numbers = []
    count = microbatch.microbatch_count
    monkeypatch.setattr(
        microbatch, "microbatch_count", lambda *arguments: numbers.append(count(*arguments)) or numbers[-1]
    )
    np.testing.assert_allclose(classifier.predict_on_batch(images), whole, atol=1e-6)
    assert numbers == [3]


@pytest.mark.parametrize("count", [1, 2])
def test_predictions_trace_blocks_of_one_shape_once(make: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A graph of all blocks held the folded weights of all of them: 0.1 GiB for TNT-S. One image is faster with it."""
    classifier, _, _ = make()
    calls: list[str] = []
    call = TNTBlock.call
    monkeypatch.setattr(TNTBlock, "call", lambda block, *inputs: calls.append(block.name) or call(block, *inputs))
    classifier.predict_on_batch(np.zeros((count, 8, 8, 1), np.uint8))
    blocks = [block.name for block in classifier.network.blocks]
    assert calls == (blocks[:1] if keras.config.backend() == "tensorflow" and count > 1 else blocks)


def test_a_kernel_may_be_run_first_by_several_threads_at_once() -> None:
    """XLA's reductions by YNNPACK ended the process, about one training in fifty."""
    program = """
from tnt_exp.config.trainer import TrainerConfig
from tnt_exp.training.device import prepare_device
prepare_device(TrainerConfig())
import tensorflow as tf
x = tf.random.normal((2304, 128))
for _ in range(60):
    kernel = tf.function(tf.nn.softmax, autograph=False, jit_compile=True)
    tf.function(lambda: [kernel(x + k) for k in range(8)], autograph=False)()
"""
    environment = os.environ | {"TF_NUM_INTEROP_THREADS": "8"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_run_on_a_cpu_computes_in_parts_on_each_of_its_cores() -> None:
    program = """
from tnt_exp.config.trainer import TrainerConfig
from tnt_exp.hardware import cpu_count
from tnt_exp.training.device import prepare_device
from tnt_exp.model import microbatch
from tnt_exp.model.blocks import TNTBlock
prepare_device(TrainerConfig())
assert microbatch.parallel_streams() == cpu_count(), microbatch.parallel_streams()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_loop_of_predictions_holds_operations(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It held a call of a function of calls, and TensorFlow computed the microbatches one after the other."""
    import tensorflow as tf

    classifier, _, _ = make("model.depth=2")
    monkeypatch.setattr(microbatch, "parallel_streams", lambda: 2)
    monkeypatch.setattr(microbatch, "microbatch_count", lambda *_: 2)
    predict = tf.function(lambda images: classifier.predict_step((images,)), autograph=False)
    definition = predict.get_concrete_function(tf.TensorSpec((4, 8, 8, 1), "uint8")).graph.as_graph_def()
    functions = {function.signature.name: function for function in definition.library.function}
    (loop,) = (node for node in definition.node if node.op in ("While", "StatelessWhile"))

    def called(function: Any) -> list[Any]:
        return [functions[node.attr["f"].func.name] for node in function.node_def if "PartitionedCall" in node.op]

    (part,) = called(functions[loop.attr["body"].func.name])
    assert not part.attr["_noinline"].b
    assert [block.attr["_noinline"].b for block in called(part)] == [True, True]
