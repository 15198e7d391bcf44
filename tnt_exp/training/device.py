"""Select the backend and the device before Keras is imported."""

import contextlib
import faulthandler
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from tnt_exp.config.trainer import Backend, Compile, Precision, TrainerConfig
from tnt_exp.errors import UserError
from tnt_exp.hardware import cpu_count, processor_info
from tnt_exp.training.distributed import process_count

# Passes of TensorFlow's graph optimizer that take time at the start of a run on a CPU and change nothing here.
_USELESS_PASSES = (
    "function_optimization",
    "implementation_selector",
    "layout_optimizer",
    "loop_optimization",
    "shape_optimization",
)

# Imported by Keras and TensorFlow where they are installed, for features that are not used here.
_OPTIONAL_PACKAGES = {"IPython", "jax", "matplotlib", "pandas", "scipy", "sklearn", "torch"}

# Flags of XLA in TensorFlow.
_XLA_FLAGS = {
    # By default half the width of AVX-512, because older processors lower their clock at the full width.
    "xla_cpu_prefer_vector_width": "512",
    # Reductions by YNNPACK end the process when two threads run a kernel for the first time at once, as microbatches
    # do: both add to one list of constants (TensorFlow 2.21). XLA's own reductions are as fast.
    "xla_cpu_experimental_ynn_fusion_type": "",
}

_KEPT_SECONDS = 30 * 24 * 3600  # unused folders of compiled kernels are removed then
_AMPERE = (8, 0)  # compute capability of the first NVIDIA GPUs that multiply bfloat16 numbers
# Flags in /proc/cpuinfo of processors that multiply bfloat16 numbers.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Device:
    """The device of a run."""

    backend: str  # of Keras
    kind: str  # "gpu" or "cpu"
    name: str  # names of the GPUs, or of the processor
    count: int  # devices that share each batch, those of all processes
    xla: bool  # whether XLA compiles the training step
    steps_per_dispatch: int  # training steps per call of the device
    precision: str  # dtype policy of Keras

    def evaluation_batch_size(self, batch_size: int) -> int:
        """Return the images per call where nothing is kept for a backward pass.

        On a GPU a call of Keras costs more than its arithmetic, so that calls are fewer and larger there.
        """
        return batch_size if self.kind == "cpu" else 4 * batch_size


def check_backend(trainer: TrainerConfig) -> None:
    """Raise `UserError` if the backend is not installed; imports nothing."""
    backend = trainer.backend.value
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"trainer.backend: expected an installed backend, received {backend}. "
            f"Install it with: pip install 'tnt-exp[{backend}]'"
        )


def prepare_device(trainer: TrainerConfig) -> Device:
    """Select backend, precision, memory growth and determinism; imports the backend and Keras.

    Raises:
        UserError: Keras already runs on another backend, or there are fewer devices than asked for.
    """
    backend = trainer.backend.value
    load_backend(backend)
    import keras

    if keras.config.backend() != backend:
        raise UserError(
            f"trainer.backend: expected {keras.config.backend()}, with which this process began, received {backend}. "
            "Run each backend by a command of its own."
        )
    with _quiet():
        gpus, cpus, has_bfloat16 = _START[trainer.backend](trainer)
    on_gpu = bool(gpus)
    if not on_gpu:
        has_bfloat16 = not _BFLOAT16_FLAGS.isdisjoint(processor_info("flags").split())
    count = _count(trainer, len(gpus) or cpus)
    xla = {Compile.always: True, Compile.never: False}.get(trainer.xla, backend == "jax" or on_gpu)
    if backend == "torch" or (backend == "tensorflow" and trainer.deterministic and trainer.xla is Compile.auto):
        xla = False
    precision = trainer.precision
    if precision is Precision.auto:
        precision = faster_precision(trainer.backend, on_gpu=on_gpu, has_bfloat16=has_bfloat16, xla=xla)
    keras.config.set_dtype_policy(precision.value)
    processor = processor_info("model name") or platform.processor() or platform.machine()
    return Device(
        backend=backend,
        kind="gpu" if on_gpu else "cpu",
        name=", ".join(gpus[:count]) or f"{processor}, {os.cpu_count()} cores",
        count=count * process_count(),
        xla=xla,
        # The cost of a dispatch is constant, and a step is short on a GPU but not on a CPU.
        steps_per_dispatch=trainer.steps_per_dispatch or (32 if on_gpu and backend != "torch" else 1),
        precision=precision.value,
    )


def faster_precision(backend: Backend, *, on_gpu: bool, has_bfloat16: bool, xla: bool) -> Precision:
    """Return the precision of `trainer.precision=auto`.

    bfloat16 is faster on a GPU that has it. On a processor only oneDNN, which TensorFlow calls where XLA does not
    compile the whole step, is faster with it (docs/performance.md).
    """
    is_multiplied_by_onednn = backend is Backend.tensorflow and not on_gpu and not xla
    is_faster = has_bfloat16 and (on_gpu or is_multiplied_by_onednn)
    return Precision.mixed_bfloat16 if is_faster else Precision.float32


def load_backend(backend: str) -> None:
    """Import the backend and Keras, without their start-up messages; no device is initialized.

    In a process of the command line they do not find the packages that they import if they are installed, which are
    half of the time: nothing here uses those through Keras. A notebook may give Keras a data frame.
    """
    os.environ["KERAS_BACKEND"] = backend
    needed = {"jax", "scipy"} if backend == "jax" else {backend}
    is_first = "keras" not in sys.modules and "tnt_exp.cli" in sys.modules
    with _quiet(), without_packages(_OPTIONAL_PACKAGES - needed if is_first else set()):
        import keras  # noqa: F401  (imports the backend, which is what is wanted)


def _count(trainer: TrainerConfig, there: int) -> int:
    """Return how many of the available devices share a batch, or raise `UserError`."""
    count = trainer.devices or there
    if count > there:
        raise UserError(
            f"trainer.devices: expected at most {there}, which {trainer.backend.value} sees, received {count}."
        )
    total = count * process_count()
    if trainer.batch_size % total:
        raise UserError(
            f"trainer.batch_size: expected a multiple of the {total} devices "
            f"(trainer.devices={'null' if trainer.devices is None else trainer.devices}), "
            f"received {trainer.batch_size}."
        )
    return count


def load_tensorflow() -> None:
    """Load TensorFlow, if it is installed, without its start-up messages.

    Beside another backend it may use the CPU only, because the GPU's memory is taken.
    """
    import keras

    if importlib.util.find_spec("tensorflow") is None:
        return
    with _quiet():
        import tensorflow as tf

        if keras.config.backend() != "tensorflow":
            tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def without_packages(names: Set[str]) -> Iterator[None]:
    """Let packages that are not loaded yet appear as if they were not installed."""
    hidden = names - sys.modules.keys()
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # its import fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what TensorFlow's libraries write to standard error while they load."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with native_messages_in(Path(os.devnull)):
        yield


@contextlib.contextmanager
def native_messages_in(log_file: Path) -> Iterator[None]:
    """Append what native libraries write to standard error to a file; what Python writes there is still shown.

    Unless TF_CPP_MIN_LOG_LEVEL=0 asks for it, or somebody else has replaced `sys.stderr`.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0" or sys.stderr is not sys.__stderr__ or sys.stderr is None:
        yield
        return
    shown = sys.stderr
    shown.flush()
    kept = os.dup(2)
    with log_file.open("a") as file, os.fdopen(kept, "w", 1, errors=shown.errors) as terminal:
        os.dup2(file.fileno(), 2)
        sys.stderr = terminal
        if faulthandler.is_enabled():
            faulthandler.enable(terminal)
        try:
            yield
        finally:
            terminal.flush()
            os.dup2(kept, 2)
            sys.stderr = shown
            if faulthandler.is_enabled():
                faulthandler.enable(shown)


def _tensorflow(trainer: TrainerConfig) -> tuple[list[str], int, bool]:
    """Return the names of the GPUs, the number of CPU devices (one, unless the processor was split), and whether all
    GPUs multiply bfloat16 numbers.
    """
    import tensorflow as tf  # already loaded, by Keras

    flags = os.environ.get("XLA_FLAGS", "")
    chosen = [f"--{name}={value}" for name, value in _XLA_FLAGS.items() if name not in flags]  # else: the user's
    os.environ["XLA_FLAGS"] = " ".join([*chosen, flags])
    with contextlib.suppress(OSError, RuntimeError):  # no home, or no space in it
        _keep_compiled_kernels(tf.__version__, trainer.xla is Compile.always)
    if trainer.deterministic:
        tf.config.experimental.enable_op_determinism()
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        tf.config.experimental.enable_tensor_float_32_execution(trainer.tf32)
    else:
        if trainer.xla is not Compile.always:
            # An operation has one thread: cores compute microbatches (`tnt_exp.model.microbatch`) in parallel.
            given = os.environ.get("TF_NUM_INTEROP_THREADS")  # in a sweep, this trial's share
            with contextlib.suppress(RuntimeError):  # in a process that has computed before, they cannot change
                tf.config.threading.set_inter_op_parallelism_threads(int(given) if given else cpu_count())
                tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.optimizer.set_experimental_options(dict.fromkeys(_USELESS_PASSES, False))
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [found.get("device_name", gpu.name) for gpu, found in zip(gpus, details, strict=True)]
    has_bfloat16 = all(found.get("compute_capability", (0, 0)) >= _AMPERE for found in details)
    return names, len(tf.config.list_logical_devices("CPU")), has_bfloat16


def _keep_compiled_kernels(version: str, parallel: bool) -> None:
    """Let XLA keep what it compiles for the processor, with one thread or for all cores, for the next process.

    TensorFlow ends a run whose file is damaged or cannot be written. So a folder is used until the next boot of this
    machine, because only a power cut leaves a damaged file, and `OSError` is raised if there is no space in it.
    """
    flags = os.environ.get("TF_XLA_FLAGS", "")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    kept = boot, processor_info("flags"), version, parallel and cpu_count(), os.environ["XLA_FLAGS"]
    folder = _cache_folder() / "tensorflow" / hashlib.sha256(repr(kept).encode()).hexdigest()[:16]
    if "tf_xla_persistent_cache_directory" in flags or re.search(r"\s", str(folder)):  # chosen by the user; no flag
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(2**20))
    os.utime(folder)
    for other in folder.parent.iterdir():
        if time.time() - other.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    cache = f"--tf_xla_persistent_cache_directory={folder} --tf_xla_persistent_cache_device_types=CPU"
    os.environ["TF_XLA_FLAGS"] = f"{cache} {flags}"


def _cache_folder() -> Path:
    """Return the folder of compiled programs, or raise `RuntimeError`: the user has no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tnt-exp"


def _jax(trainer: TrainerConfig) -> tuple[list[str], int, bool]:
    import jax

    logging.getLogger("jax").setLevel(logging.WARNING)  # it logs every kind of device that is missing
    # Compiled steps are cached for the next run and the next trial of a sweep.
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(_cache_folder() / "jax"))
    if trainer.deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    is_split = _split_processor()
    devices = jax.local_devices()
    if len(jax.devices()) != len(devices) * process_count():
        raise UserError(
            f"trainer.distributed=auto: expected as many devices in each process, received {len(devices)} here and "
            f"{len(jax.devices())} in {process_count()} processes. Start each with the same number of them."
        )
    gpus = [device for device in devices if device.platform in ("gpu", "cuda", "rocm")]
    names = [device.device_kind for device in gpus]
    if names and not trainer.tf32:  # else XLA rounds by itself
        jax.config.update("jax_default_matmul_precision", "highest")
    versions = [re.match(r"(\d+)\.(\d+)$", str(getattr(device, "compute_capability", ""))) for device in gpus]
    has_bfloat16 = all(version and (int(version[1]), int(version[2])) >= _AMPERE for version in versions)
    count = 1 if is_split and not gpus else len(devices)
    return names, count, has_bfloat16


@functools.cache
def _split_processor() -> bool:
    """Make the processor one device of JAX per core, for microbatches in parallel, unless a user has split it.

    Returns whether this function has; a run then counts one device all the same.
    """
    import jax

    is_split_by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if is_split_by_flag or process_count() > 1 or jax.config.jax_num_cpu_devices > 0:
        return False
    try:
        jax.config.update("jax_num_cpu_devices", int(os.environ.get("NPROC") or cpu_count()))  # NPROC: share of a trial
    except RuntimeError:  # this process has computed before
        return False
    return True


def _torch(trainer: TrainerConfig) -> tuple[list[str], int, bool]:
    import torch

    if trainer.deterministic:  # without it PyTorch refuses each product on a GPU; read when CUDA starts
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(trainer.deterministic)
    if torch.cuda.is_available():
        # PyTorch by itself rounds convolutions and not products; the other backends round both.
        kind = "tf32" if trainer.tf32 else "ieee"
        torch.backends.cuda.matmul.fp32_precision = kind
        torch.backends.cudnn.conv.fp32_precision = kind
    gpus = range(torch.cuda.device_count())
    has_bfloat16 = all(torch.cuda.get_device_capability(index) >= _AMPERE for index in gpus)
    return [torch.cuda.get_device_name(index) for index in gpus], 1, has_bfloat16


_START = {Backend.tensorflow: _tensorflow, Backend.jax: _jax, Backend.torch: _torch}
