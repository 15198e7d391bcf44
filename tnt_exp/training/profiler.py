"""A trace of some training steps, for TensorBoard or Perfetto."""

from collections.abc import Sequence
from pathlib import Path

import keras

from tnt_exp.augmentation.stateless_random import Tensor
from tnt_exp.training.train_step import TrainStep

_SKIPPED_CALLS = 2  # they compile
_TRACED_CALLS = 5


class ProfiledStep:
    """A step whose calls three to seven (or as many of them as the epoch has) are traced.

    TensorFlow writes a profile for TensorBoard (`tensorboard --logdir FOLDER`, with its profile plugin), JAX also a
    trace for https://ui.perfetto.dev, PyTorch a trace for Perfetto.

    Args:
        step: The compiled step.
        folder: Where the trace goes.
    """

    def __init__(self, step: TrainStep, folder: Path) -> None:
        self._step = step
        self._folder = folder
        self._calls = 0
        self._trace: _TensorFlow | _Jax | _Torch | None = None

    def __call__(self, images: Tensor, labels: Tensor, first: int, rates: Sequence[float], mixing: float) -> Tensor:
        """See `TrainStep`."""
        if self._calls == _SKIPPED_CALLS:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._trace = _TRACES[keras.config.backend()](self._folder)
            self._trace.start()
        sums = self._step(images, labels, first, rates, mixing)
        self._calls += 1
        if self._calls == _SKIPPED_CALLS + _TRACED_CALLS:
            keras.ops.convert_to_numpy(sums)  # waits for the device
            self._stop()
        return sums

    def sync_to_model(self) -> None:
        """See `TrainStep`; if an epoch has fewer calls, the trace ends with it."""
        self._stop()
        self._step.sync_to_model()

    def _stop(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def sync_from_model(self) -> None:
        """See `TrainStep`."""
        self._step.sync_from_model()


class _TensorFlow:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self) -> None:
        import tensorflow as tf

        tf.profiler.experimental.start(str(self._folder))

    def stop(self) -> None:
        import tensorflow as tf

        tf.profiler.experimental.stop()


class _Jax:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self) -> None:
        import jax

        jax.profiler.start_trace(self._folder, create_perfetto_trace=True)

    def stop(self) -> None:
        import jax

        jax.profiler.stop_trace()


class _Torch:
    def __init__(self, folder: Path) -> None:
        import torch

        self._folder = folder
        self._profile = torch.profiler.profile()

    def start(self) -> None:
        self._profile.start()

    def stop(self) -> None:
        self._profile.stop()
        self._profile.export_chrome_trace(str(self._folder / "perfetto_trace.json.gz"))


_TRACES: dict[str, type[_TensorFlow | _Jax | _Torch]] = {"tensorflow": _TensorFlow, "jax": _Jax, "torch": _Torch}
