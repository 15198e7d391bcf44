"""A trace of some training steps, for TensorBoard or Perfetto."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import keras

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.training.train_step import TrainStep

_SKIPPED_CALLS = 2  # they compile
_TRACED_CALLS = 5


class ProfiledStep(TrainStep):
    """A step whose calls three to seven (or as many of them as the epoch has) are traced.

    TensorFlow writes a profile for TensorBoard (`tensorboard --logdir FOLDER`, with its profile plugin), JAX also a
    trace for https://ui.perfetto.dev, PyTorch a trace for Perfetto; they go to the folder.
    """

    def __init__(self, step: TrainStep, folder: Path) -> None:
        self._step = step
        self._folder = folder
        self._calls = 0
        self._trace = ExitStack()

    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """See `TrainStep`."""
        if self._calls == _SKIPPED_CALLS:
            self._trace.enter_context(_trace(self._folder))
        sums = self._step(images, labels, first, rates, mixing)
        self._calls += 1
        if self._calls == _SKIPPED_CALLS + _TRACED_CALLS:
            keras.ops.convert_to_numpy(sums)  # waits for the device
            self._trace.close()
        return sums

    def sync_to_model(self) -> None:
        """See `TrainStep`; if an epoch has fewer calls, the trace ends with it."""
        self._trace.close()
        self._step.sync_to_model()

    def sync_from_model(self) -> None:
        """See `TrainStep`."""
        self._step.sync_from_model()


@contextmanager
def _trace(folder: Path) -> Iterator[None]:
    """Trace what happens within the block, by the profiler of the current backend."""
    folder.mkdir(parents=True, exist_ok=True)
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.profiler.experimental.Profile(str(folder)):
                yield
        case "jax":
            import jax

            with jax.profiler.trace(folder, create_perfetto_trace=True):
                yield
        case _:
            import torch

            with torch.profiler.profile() as profile:
                yield
            profile.export_chrome_trace(str(folder / "perfetto_trace.json.gz"))
