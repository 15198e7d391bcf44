"""One run on many machines, by the distributed runtime of JAX (`trainer.distributed=auto`).

Each machine runs the same command. The processes make the same steps, each on its part of every batch. Process 0 alone
has the run folder and tracks; the others work in a temporary folder and receive from it what depends on files
(`on_process_0`), and all agree on what depends on time or signals (`Votes`). Without other processes nothing here does
anything.
"""

import ctypes
import functools
import logging
import math
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, ParamSpec, TypeVar

import numpy as np

from tnt_exp.errors import UserError

log = logging.getLogger("tnt_exp")

P = ParamSpec("P")
T = TypeVar("T")

LOST = 75  # exit code, EX_TEMPFAIL: the same command continues
CONNECT_SECONDS = 300  # until all processes must have begun
HEARTBEAT_SECONDS = 15  # without a sign of life until a process counts as lost
_DAY = 86_400  # seconds; the others wait for the test and the uploads of process 0
_GRACE = 3  # seconds that process 0 waits until others that failed alike have ended
_VOTES_AHEAD = 3  # calls of the device before a vote is read, so that nothing waits for it

# Variables of the number of a process, the number of processes and, among other things, the address of process 0.
_VARIABLES = (
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NODELIST"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"),
)


@dataclass
class _Processes:
    """The processes of this run, and what happens when this one ends."""

    count: int = 1
    index: int = 0
    alone: bool = False  # process 0 computes what the others wait for
    agreed: bool = False  # all end, for the same reason
    exit_code: int = LOST  # if JAX aborts this process
    message: str = "another process of this run was lost; the same command continues it"


_processes = _Processes()


def process_count() -> int:
    """Return the number of processes of the run."""
    return _processes.count


def process_index() -> int:
    """Return the number of this process, from 0."""
    return _processes.index


def find_processes() -> tuple[int, int]:
    """Return the number of this process and the number of processes, from the environment.

    Raises:
        UserError: No launcher and no variable names them, or they contradict each other.
    """
    names = next((names for names in _VARIABLES if all(os.environ.get(name) for name in names)), None)
    if names is None:
        given = [name for names in _VARIABLES for name in names if os.environ.get(name)]
        raise UserError(
            f"trainer.distributed=auto: expected {', '.join(_VARIABLES[0])} in the environment, or a start by srun or "
            f"mpirun, received {'only ' + ', '.join(given) if given else 'neither'} (docs/clusters.md)."
        )
    index, count, address = (os.environ[name] for name in names)
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(
            f"{names[0]}: expected a number from 0 to {names[1]} - 1, received {index} with {names[1]}={count}."
        )
    if names == _VARIABLES[0] and not re.fullmatch(r".+:\d+", address):
        raise UserError(f"{names[2]}: expected HOST:PORT of process 0, received {address}.")
    return int(index), int(count)


def validate(batch_size: int, devices: int, repeats: int) -> None:
    """Raise `UserError` if the processes cannot share each batch: `devices` of each, `repeats` of an image in a row."""
    _, count = find_processes()
    divisor = count * math.lcm(devices, repeats)
    if batch_size % divisor:
        raise UserError(
            f"trainer.batch_size: expected a multiple of {divisor} ({count} processes, {devices} devices of each, "
            f"augmentation.repeats={repeats}), received {batch_size}."
        )


def connect() -> None:
    """Connect the processes of the run; returns when all have begun. From then on a lost process ends all.

    Raises:
        UserError: See `find_processes`.
    """
    index, count = find_processes()
    import jax

    logging.getLogger("jax").setLevel(logging.WARNING)
    # JAX would catch SIGTERM for it; here signals are agreed on by votes.
    jax.config.update("jax_enable_preemption_service", False)
    message, _processes.message = (
        _processes.message,
        (f"trainer.distributed=auto: expected {count} processes, received fewer within {CONNECT_SECONDS} seconds."),
    )
    _processes.exit_code = 2
    _end_when_aborted()
    arguments = {
        "num_processes": count,
        "process_id": index,
        "initialization_timeout": CONNECT_SECONDS,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": _DAY,
    }
    errors: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(**arguments)
        except Exception as error:
            errors.append(error)

    # In a thread, because a signal must end a process that waits for others.
    thread = threading.Thread(target=initialize, name="connect", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise UserError(f"trainer.distributed=auto: {str(errors[0]).partition(chr(10))[0]}") from errors[0]
    _processes.index, _processes.count = index, count
    _processes.exit_code, _processes.message = LOST, message
    if index:
        for handler in [each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]:
            logging.getLogger().removeHandler(handler)
        log.setLevel(logging.WARNING)


def leave(code: int) -> int:
    """Leave the run with this exit code; only if all processes end alike, return it."""
    if _processes.count == 1:
        return code
    if code or _processes.index == 0:
        _processes.exit_code = code
    if code == 0 or _processes.agreed:
        import jax

        jax.distributed.shutdown()  # waits for all processes
        _processes.count = 1
        return code
    if _processes.index == 0:
        time.sleep(_GRACE)
    _exit(code)


def end_if_lost(error: Exception) -> None:
    """Wait, after an error of JAX, for JAX to end this process: an exchange fails when another process is lost."""
    if _processes.count > 1 and type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError"):
        time.sleep(2 * HEARTBEAT_SECONDS)


def _exit(code: int) -> NoReturn:
    """End the process: a regular exit would wait for the others."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@functools.cache
def _end_when_aborted() -> None:
    """End the process with an exit code and one line where JAX aborts it: when it has lost another process.

    Python's own handlers would run too late. The argument of `signal` is a C function, which lives forever.
    """

    @ctypes.CFUNCTYPE(None, ctypes.c_int)
    def handle(number: int) -> None:
        try:
            print(f"tnt-exp: {_processes.message}", file=sys.stderr, flush=True)
        finally:
            os._exit(_processes.exit_code)

    _KEPT.append(handle)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal(signal.SIGABRT, ctypes.cast(handle, ctypes.c_void_p))


_KEPT: list[Any] = []


def on_process_0(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function run on process 0 alone: every process gets what it returns or raises there.

    All processes must call it at the same point.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if _processes.count == 1 or _processes.alone:
            return function(*args, **kwargs)
        data = b""
        if _processes.index == 0:
            _processes.alone = True
            try:
                data = pickle.dumps((function(*args, **kwargs), None))
            except Exception as error:
                data = pickle.dumps((None, error))
            finally:
                _processes.alone = False
        value: T
        value, raised = pickle.loads(_broadcast(data))
        if raised is not None:
            _processes.agreed = True
            raise raised
        return value

    return call


def _broadcast(data: bytes) -> bytes:
    """Return the bytes of process 0, with zeros behind them: JAX compiles an exchange for each length."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    size = int(broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(1 << size.bit_length(), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return np.asarray(broadcast_one_to_all(padded)).astype(np.uint8).tobytes()


class Votes:
    """Numbers on which all processes agree at the same call: the greatest."""

    def __init__(self) -> None:
        self._pending: deque[Any] = deque()
        if _processes.count == 1:
            return
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.asarray(jax.devices()), ("devices",))
        self._by_device = NamedSharding(mesh, PartitionSpec("devices"))
        self._greatest = jax.jit(jax.numpy.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def vote(self, number: int) -> int:
        """Return the greatest number of the call `_VOTES_AHEAD` calls ago: 0 in the first ones."""
        if _processes.count == 1:
            return number
        self._cast(number)
        return self._read() if len(self._pending) > _VOTES_AHEAD else 0

    def last(self, number: int) -> int:
        """Return the greatest number of this call and of all that were not read yet."""
        if _processes.count == 1:
            return number
        self._cast(number)
        return max(self._read() for _ in range(len(self._pending)))

    def clear(self) -> None:
        """Forget what was not read yet."""
        self._pending.clear()

    def _cast(self, number: int) -> None:
        import jax

        own = np.full(jax.local_device_count(), number, np.int32)
        self._pending.append(self._greatest(jax.make_array_from_process_local_data(self._by_device, own)))

    def _read(self) -> int:
        return int(self._pending.popleft())
