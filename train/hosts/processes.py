"""Several processes, usually one on each host: how they come together, agree, and end together."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from train.config.errors import UserError, explain
from train.config.validation import Checked
from train.hosts.barrier import Meeting
from train.hosts.launcher import Place, is_address, launched_place
from train.hosts.rendezvous import meet

_meeting: Meeting | None = None


@dataclasses.dataclass(frozen=True)
class Hosts(Checked):
    """Several processes that train together, usually one on each host.

    Slurm, Open MPI, Kubernetes and Cloud TPU say how many there are, and so do JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID: the flags are for where nothing does.
    """

    _prefix: ClassVar[str] = "--"

    coordinator: str | None = None
    """HOST:PORT of process 0, by which all processes find each other."""
    num_processes: int | None = None
    """How many processes train together; 1 trains alone, whatever the environment says."""
    process_id: int | None = None
    """Number of this process, from 0."""
    start_timeout: int = 300
    """Seconds that processes wait for each other."""
    heartbeat_timeout: int = 60
    """Seconds after which a process that is silent is lost."""

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

    def place(self) -> Place | None:
        """Where this process stands, by the flags or else by the environment; None where it is alone.

        Raises:
          UserError: the environment says that there are others, but not where.
        """
        if self.num_processes == 1:
            return None
        if self.coordinator is not None and self.num_processes is not None and self.process_id is not None:
            return Place(self.coordinator, self.num_processes, self.process_id)
        return launched_place(self.start_timeout)


class SharedError(UserError):
    """An error that every process raises."""


@contextlib.contextmanager
def connected(hosts: Hosts) -> Iterator[None]:
    """Joins the processes around their common work, and lets them part behind it; one that is alone just works.

    It comes before anything that asks JAX for devices. An error in one process ends them all.

    Raises:
      UserError: not all processes have come.
    """
    global _meeting
    place = hosts.place()
    if place is None:
        yield
        return
    _meeting = meet(place, hosts.start_timeout, hosts.heartbeat_timeout)
    _delay_abort()
    with failing_together():
        import jax

        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            place.local_devices,
            cluster_detection_method="deactivate",
            initialization_timeout=hosts.start_timeout,
            heartbeat_timeout_seconds=2 * hosts.heartbeat_timeout,  # the meeting is to notice first
        )
        yield
        jax.distributed.shutdown()
    _meeting.leave()
    _meeting = None


def _delay_abort() -> None:
    """JAX aborts as soon as it misses process 0: this lets the meeting end the process in one line first.

    Only a handler in C can hold an abort up. It is `sleep`, for as many seconds as the signal has for a number: six.
    """
    libc = ctypes.CDLL(None)
    libc.signal(ctypes.c_int(signal.SIGABRT), libc.sleep)


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """An error inside ends this process and all others at once, in one line; one that is alone raises it.

    It belongs inside of whatever waits for the other processes when it is closed: they would never come.
    """
    try:
        yield
    except BaseException as error:
        if _meeting is None:
            raise
        import jax

        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(3)  # where it failed because another process is gone, the meeting ends this one, and says so
        explained = explain(error)
        if explained is None:
            traceback.print_exception(error)
            explained = f"{type(error).__name__}: {error}".partition("\n")[0], 1
        _meeting.end(*explained, known=isinstance(error, SharedError))


def gather(name: str, value: Any, timeout: float = 300) -> list[Any]:
    """Returns the values of all processes, in their order. All call it, under the same names in the same order.

    Where some do not come, it ends the others, with a line that names those.

    Args:
      name: what this is about, for that line.
      value: anything that goes into JSON.
      timeout: seconds that processes wait for each other.
    """
    text = json.dumps(value)
    texts = [text] if _meeting is None else _meeting.exchange(name, text, timeout)
    return [json.loads(each) for each in texts]


def barrier(name: str, timeout: float = 300) -> None:
    """Waits until all processes have come here; where some do not, it ends the others, with a line that names those."""
    gather(name, None, timeout)


def on_first(name: str, function: Callable[[], Any], timeout: float = 300) -> Any:
    """Runs a function on process 0 alone, and gives what it returns to all.

    Args:
      name: what it does, for the line with which all end where some do not come.
      function: returns anything that goes into JSON.
      timeout: seconds that the others wait for it.

    Raises:
      UserError: it raised one.
    """
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome["value"] = function()
        except UserError as error:
            if _meeting is None:
                raise
            outcome["error"] = str(error)
    first = gather(name, outcome, timeout)[0]
    if "error" in first:
        raise SharedError(first["error"])
    return first["value"]


def is_first() -> bool:
    """Whether this process is number 0, the one that writes and speaks."""
    return _meeting is None or _meeting.place.process_id == 0


def standing(batch_size: int) -> str:
    """One line about this process: its number, its devices and its share of a batch."""
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
