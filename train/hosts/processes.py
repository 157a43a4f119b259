"""Several processes, usually one per host, that start, exchange values and end together."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from train.config.errors import UserError, exit_message
from train.config.validation import Validated
from train.hosts.group import ProcessGroup
from train.hosts.launcher import Rank, detect_rank, is_address
from train.hosts.rendezvous import rendezvous

_group: ProcessGroup | None = None


@dataclasses.dataclass(frozen=True)
class Hosts(Validated):
    """Several processes that train one run, usually one per host.

    The flags are not needed under Slurm, Open MPI, Kubernetes and Cloud TPU, nor if JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID are set.
    """

    _prefix: ClassVar[str] = "--"

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    num_processes: int | None = None
    """Number of processes; 1 trains with this one alone, whatever the environment says."""
    process_id: int | None = None
    """Index of this process, from 0."""
    start_timeout: int = 300
    """Seconds to wait for the other processes at the start."""
    heartbeat_timeout: int = 60
    """Seconds after which a silent process counts as lost."""

    def validate(self) -> None:
        flags = {name: getattr(self, name) for name in ("coordinator", "num_processes", "process_id")}
        missing = [f"--{name}" for name, value in flags.items() if value is None]
        for name in ("num_processes", "start_timeout", "heartbeat_timeout"):
            self._require(getattr(self, name) is None or getattr(self, name) >= 1, name, "at least 1")
        if missing == ["--coordinator", "--process_id"] and self.num_processes == 1:
            return
        if len(missing) in (1, 2):
            given = [f"--{name}" for name, value in flags.items() if value is not None]
            raise UserError(f"{' and '.join(given)} must come with {' and '.join(missing)}")
        if self.coordinator is not None and self.num_processes is not None and self.process_id is not None:
            self._require(is_address(self.coordinator), "coordinator", "HOST:PORT, PORT from 1 to 65535")
            inside = 0 <= self.process_id < self.num_processes
            self._require(inside, "process_id", f"at least 0 and below --num_processes={self.num_processes}")

    def rank(self) -> Rank | None:
        """Returns the rank of this process, from the flags or else the environment; None for a single process.

        Raises:
          UserError: there are several processes, but the rank is not fully known.
        """
        if self.num_processes == 1:
            return None
        if self.coordinator is not None and self.num_processes is not None and self.process_id is not None:
            return Rank(self.coordinator, self.num_processes, self.process_id)
        return detect_rank(self.start_timeout)


class CollectiveError(UserError):
    """A user error that every process raises."""


@contextlib.contextmanager
def connected(hosts: Hosts) -> Iterator[None]:
    """Connects the processes within the context; does nothing for a single one.

    Enter it before anything asks JAX for devices. An error in one process ends them all.

    Raises:
      UserError: a process is missing.
    """
    global _group
    rank = hosts.rank()
    if rank is None:
        yield
        return
    _group = rendezvous(rank, hosts.start_timeout, hosts.heartbeat_timeout)
    _delay_abort()
    with failing_together():
        import jax

        jax.distributed.initialize(
            rank.coordinator,
            rank.num_processes,
            rank.process_id,
            rank.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=hosts.start_timeout,
            heartbeat_timeout_seconds=2 * hosts.heartbeat_timeout,  # our group notices first
        )
        yield
        jax.distributed.shutdown()
    _group.leave()
    _group = None


def _delay_abort() -> None:
    """JAX aborts as soon as process 0 is lost: this gives the group time to end the process with one line.

    Only a handler in C can delay an abort. It is `sleep`, for as many seconds as the number of the signal: six.
    """
    libc = ctypes.CDLL(None)
    libc.signal(ctypes.c_int(signal.SIGABRT), libc.sleep)


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """An error within the context ends all processes at once, with one line; a single process raises it.

    Enter it inside of contexts that wait for the other processes on exit, who would never arrive.
    """
    try:
        yield
    except BaseException as error:
        if _group is None:
            raise
        import jax

        if isinstance(error, jax.errors.JaxRuntimeError) or error.__cause__ is not None:
            time.sleep(3)  # if another process is lost, the group ends this one meanwhile, with a better message
        known = exit_message(error)
        if known is None:
            traceback.print_exception(error)
            known = f"{type(error).__name__}: {error}".partition("\n")[0], 1
        _group.end(*known, known=isinstance(error, CollectiveError))


def gather(name: str, value: Any, timeout: float = 300) -> list[Any]:
    """Returns the values of all processes, by process. All call it, with the same names in the same order.

    If some do not arrive in time, the others end with an error that names them.

    Args:
      name: of this call, for the error.
      value: anything that JSON can represent.
      timeout: seconds to wait for the other processes.
    """
    text = json.dumps(value)
    texts = [text] if _group is None else _group.exchange(name, text, timeout)
    return [json.loads(each) for each in texts]


def barrier(name: str, timeout: float = 300) -> None:
    """Waits for all processes. If some do not arrive in time, the others end with an error that names them."""
    gather(name, None, timeout)


def on_first(name: str, function: Callable[[], Any], timeout: float = 300) -> Any:
    """Runs a function on process 0 alone, and returns its result on all processes.

    Args:
      name: of this call, for the error if a process does not arrive in time.
      function: returns anything that JSON can represent.
      timeout: seconds to wait for it.

    Raises:
      UserError: the function raised it.
    """
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome["value"] = function()
        except UserError as error:
            if _group is None:
                raise
            outcome["error"] = str(error)
    first = gather(name, outcome, timeout)[0]
    if "error" in first:
        raise CollectiveError(first["error"])
    return first["value"]


def is_first() -> bool:
    """Whether this is process 0, which writes the files and prints."""
    return _group is None or _group.rank.process_id == 0


def device_summary(batch_size: int) -> str:
    """Returns one line on this process: its index, its devices and its part of a batch."""
    import jax

    process, count = jax.process_index(), jax.process_count()
    local, all_devices = jax.local_devices(), jax.device_count()
    kind = local[0].device_kind
    if count == 1:
        return f"{all_devices} device{'s' if all_devices > 1 else ''} ({kind}), {batch_size} images a step"
    return (
        f"process {process} of {count}: {len(local)} of {all_devices} devices ({kind}), "
        f"{batch_size // count} of {batch_size} images a step"
    )


def check_same(values: Mapping[str, Any]) -> None:
    """Checks that all processes have the same JSON-serialisable values, by name.

    Raises:
      CollectiveError: they differ; the message names a process and the value.
    """
    first, *others = gather("settings", dict(values))
    for process, other in enumerate(others, 1):
        for name in first | other:
            one, two = first.get(name), other.get(name)
            if one != two:
                difference = f"{name} is {one!r} in process 0 and {two!r} in process {process}"
                raise CollectiveError(f"all processes must have the same settings: {difference}")
