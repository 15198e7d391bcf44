"""One run on many machines, by the distributed runtime of JAX (`trainer.distributed=auto`).

Each machine runs the same command. The processes make the same steps, each on its part of every batch. Process 0 alone
has the run folder and tracks; the others work in a temporary folder and receive from it what depends on files
(`on_process_0`), and all agree on what depends on time or signals (`Votes`). Without other processes nothing here does
anything.
"""

import functools
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
from safetensors.numpy import load, save

from tnt_exp.errors import UserError, first_line
from tnt_exp.signals import EXIT_CODES

log = logging.getLogger("tnt_exp")

P = ParamSpec("P")
T = TypeVar("T")

LOST = 75  # exit code, EX_TEMPFAIL: the same command continues
CONNECT_SECONDS = 300  # within which all processes must begin
HEARTBEAT_SECONDS = 15  # after which a silent process counts as lost
_DAY = 86_400  # seconds; within them process 0 must test the model and send all to MLflow
_GRACE = 3  # seconds in which others that failed alike end, before process 0 does
_PIECE_BYTES = 2**26  # of an exchange
_ARRAY = "\0array"  # key in JSON in place of an array
_VOTES_AHEAD = 3  # calls after which a vote is read, so that no step waits for it

# Variables with the number of this process and the number of processes, and one from which JAX takes the address.
_VARIABLES = (
    ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NODELIST"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"),
)


@dataclass
class _Processes:
    """The processes of the run, and how this one ends."""

    count: int = 1
    index: int = 0
    is_calling: bool = False  # process 0 calls a function for all
    ends_with_all: bool = False  # all processes end now, for one reason
    abort_code: int = LOST  # the exit code if JAX aborts this process
    abort_message: str = ""


_processes = _Processes()


def process_count() -> int:
    """Return the number of processes of the run."""
    return _processes.count


def process_index() -> int:
    """Return the number of this process, from 0."""
    return _processes.index


def _given_variables() -> tuple[str, str, str] | None:
    """Return the first three of `_VARIABLES` that are all in the environment."""
    return next((names for names in _VARIABLES if all(os.environ.get(name) for name in names)), None)


def find_processes() -> tuple[int, int]:
    """Return the number of this process and the number of processes, from the environment.

    Raises:
        UserError: They are not there, or contradict each other.
    """
    names = _given_variables()
    if names is None:
        given = [name for name in _VARIABLES[0] if os.environ.get(name)]
        raise UserError(
            f"trainer.distributed=auto: expected a start by srun or mpirun, or {', '.join(_VARIABLES[0])} in the "
            f"environment, received {'only ' + ', '.join(given) if given else 'neither'}."
        )
    index, count, address = (os.environ[name] for name in names)
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"{names[0]}: expected a number from 0 to {names[1]} - 1, received {index} with {count}.")
    if names == _VARIABLES[0] and not re.fullmatch(r".+:\d+", address):
        raise UserError(f"{names[2]}: expected HOST:PORT of process 0, received {address}.")
    return int(index), int(count)


def validate(batch_size: int, devices: int, repeats: int) -> None:
    """Raise `UserError` if the processes cannot share each batch: `devices` of each, `repeats` of an image in a row."""
    _, count = find_processes()
    divisor = count * math.lcm(devices, repeats)
    if batch_size % divisor:
        raise UserError(
            f"trainer.batch_size: expected a multiple of {divisor} ({count} processes, trainer.devices={devices}, "
            f"augmentation.repeats={repeats}), received {batch_size}."
        )


def connect() -> None:
    """Connect the processes of the run; returns when all have begun. From then on a lost process ends all.

    Raises:
        UserError: See `find_processes`; or JAX cannot connect them.
    """
    index, count = find_processes()
    import jax

    logging.getLogger("jax").setLevel(logging.WARNING)
    _processes.abort_code = 2
    _processes.abort_message = (
        f"trainer.distributed=auto: expected {count} processes, received fewer within {CONNECT_SECONDS} seconds. Start "
        "the same command in all of them, where the address of process 0 can be reached."
    )
    _end_when_aborted()
    options: dict[str, str] = {}
    if _given_variables() == _VARIABLES[0]:  # nothing to detect: in a job, JAX would take one GPU
        address = os.environ["JAX_COORDINATOR_ADDRESS"]
        bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", address)  # JAX's default is every interface
        options = {"coordinator_address": address, "coordinator_bind_address": bound}
        options["cluster_detection_method"] = "deactivate"
    errors: list[Exception] = []

    def initialize() -> None:
        try:
            jax.config.update("jax_enable_preemption_service", False)  # it catches SIGTERM
            jax.distributed.initialize(
                num_processes=count,
                process_id=index,
                initialization_timeout=CONNECT_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                shutdown_timeout_seconds=_DAY,
                **options,
            )
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=initialize, name="connect", daemon=True)
    thread.start()
    thread.join()  # unlike a call of native code, it ends when a signal asks to stop
    if errors:
        raise UserError(f"trainer.distributed=auto: {first_line(errors[0])}") from errors[0]
    _processes.index, _processes.count, _processes.abort_code = index, count, LOST
    _processes.abort_message = "another process of the run was lost; the same command, in all, continues it"
    if index == 0:
        log.info("connected %d processes", count)


def end_together() -> None:
    """Note that all processes end now, for one reason: each waits until the others have done what is left."""
    _processes.ends_with_all = True


def leave(code: int) -> int:
    """Leave the other processes with an exit code; returns it only if all end alike, else ends this process."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)  # it ends already
    if code or _processes.index == 0:  # nothing is left to be done
        _processes.abort_code, _processes.abort_message = code, "another process ended early; here all was done"
    if code == 0 or _processes.ends_with_all:
        import jax

        jax.distributed.shutdown()  # waits for all
        _processes.count, _processes.index, _processes.ends_with_all = 1, 0, False
        return code
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_GRACE if _processes.index == 0 else 0)
    os._exit(code)  # a regular exit would wait for the others, who may wait for this one


def wait_if_lost(error: Exception) -> None:
    """Wait after an error of JAX: if the reason is that another process was lost, JAX aborts this one meanwhile."""
    if _processes.count > 1 and type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError"):
        time.sleep(2 * HEARTBEAT_SECONDS)


@functools.cache
def _end_when_aborted() -> object:
    """Let the process end with `abort_code` and a line when JAX aborts it, as it does when another one is lost.

    A handler of Python's `signal` would run too late. Returns the handler, which must live.
    """
    import ctypes

    def end(number: int) -> None:
        try:
            print(f"tnt-exp: {_processes.abort_message}", file=sys.stderr, flush=True)
        finally:
            os._exit(_processes.abort_code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    return handler


def on_process_0(function: Callable[P, T]) -> Callable[P, T]:
    """Let process 0 alone call the function: all processes get what it returns or raises.

    It returns what JSON can hold, and arrays in it. All must call it at the same point, and process 0 may call others
    of this kind in it.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if _processes.count == 1 or _processes.is_calling:
            return function(*args, **kwargs)
        value: Any = None
        raised: Exception | None = None
        if _processes.index == 0:
            _processes.is_calling = True
            try:
                value = function(*args, **kwargs)
            except Exception as error:
                raised = error
            finally:
                _processes.is_calling = False
            _broadcast(_encode(value, raised))
        else:
            value, raised = _decode(_broadcast(b""))
        if raised is not None:
            end_together()
            raise raised
        found: T = value
        return found

    return call


def _encode(value: object, raised: Exception | None) -> bytes:
    """Return JSON with the arrays behind it: what comes from another process must not run code when it is read."""
    arrays: dict[str, np.ndarray] = {}

    def place(array: object) -> dict[str, str]:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"Expected JSON or arrays, received: {type(array).__name__}")
        arrays[str(len(arrays))] = array
        return {_ARRAY: str(len(arrays) - 1)}

    error = raised and [type(raised).__name__, str(raised), *(raised.args if isinstance(raised, OSError) else ())]
    text = json.dumps([value, error], default=place).encode()
    behind: bytes = save(arrays)
    return len(text).to_bytes(8, "little") + text + behind


def _decode(data: bytes) -> tuple[Any, Exception | None]:
    """Return the value and the error of `_encode`; other errors than these two kinds become a `RuntimeError`."""
    end = 8 + int.from_bytes(data[:8], "little")
    arrays = load(data[end:])
    value, error = json.loads(
        data[8:end], object_hook=lambda found: arrays[found[_ARRAY]] if _ARRAY in found else found
    )
    if error is None:
        return value, None
    kind, text, *arguments = error
    if kind == "UserError":
        return value, UserError(text)
    return value, OSError(*arguments) if arguments else RuntimeError(f"{kind}: {text}")


def _broadcast(data: bytes) -> bytes:
    """Return the bytes of process 0, exchanged in pieces of few sizes, each of which JAX compiles once."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    def broadcast(piece: bytes, size: int) -> bytes:
        padded = np.zeros(size, np.uint8)
        padded[: len(piece)] = np.frombuffer(piece, np.uint8)
        return np.asarray(broadcast_one_to_all(padded)).astype(np.uint8).tobytes()

    length = int.from_bytes(broadcast(len(data).to_bytes(8, "little"), 8), "little")
    size = min(1 << length.bit_length(), _PIECE_BYTES)
    pieces = [broadcast(data[first : first + size], size) for first in range(0, length, size)]
    return b"".join(pieces)[:length]


class Votes:
    """Requests on which all processes agree at the same call: 0 none, 1 a checkpoint, else the signal that ends all."""

    def __init__(self) -> None:
        self._pending: deque[Any] = deque()
        if _processes.count > 1:
            import jax
            from jax.sharding import Mesh, NamedSharding, PartitionSpec

            mesh = Mesh(np.asarray(jax.devices()), ("devices",))
            self._by_device = NamedSharding(mesh, PartitionSpec("devices"))
            self._greatest = jax.jit(jax.numpy.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def vote(self, request: int, *, wait: bool = False) -> int:
        """Return the greatest request of all processes: of the call `_VOTES_AHEAD` calls ago, 0 in the first ones.

        With `wait`, that of all calls whose request was not returned yet, this one among them.
        """
        if _processes.count == 1:
            return request
        import jax

        own = np.full(jax.local_device_count(), request, np.int32)
        self._pending.append(self._greatest(jax.make_array_from_process_local_data(self._by_device, own)))
        return self.read(0 if wait else _VOTES_AHEAD)

    def read(self, keep: int = 0) -> int:
        """Return the greatest request of the calls that were not returned yet, except for the newest `keep`."""
        agreed = 0
        while len(self._pending) > keep:
            agreed = max(agreed, int(self._pending.popleft()))
        return agreed
