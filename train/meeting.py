"""Processes that meet before they work, watch each other while they do, and end together.

JAX aborts with a stack dump where a process does not come or is lost. Here the first names the others that are missing,
and every process learns at once, by a connection that closes, that another is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from train.errors import UserError

_RESUME = "start all processes again, and the same command goes on from the last checkpoint"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among the others.

    Attributes:
      coordinator: HOST:PORT of process 0.
      num_processes: how many there are.
      process_id: number of this one, from 0.
      local_devices: ids of the devices that it may use; None for all of its host.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: Sequence[int] | None = None


class _Peer:
    """A connection to another process, which carries one JSON object a line."""

    def __init__(self, connection: socket.socket, silence: int) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", silence // 2), ("TCP_KEEPINTVL", silence // 8), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, value))

    def send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float | None) -> dict[str, Any]:
        """Raises OSError where the other end is gone or silent, ValueError where it speaks another language."""
        self._connection.settimeout(timeout)
        line = self._reader.readline(1 << 16)
        if not line:
            raise ConnectionError("the connection was closed")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"not a message: {line[:80]!r}")
        return message

    def silent(self) -> bool:
        """Whether nothing has come, not even the end."""
        self._connection.settimeout(0)
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False


def meet(place: Place, timeout: int, silence: int) -> Meeting:
    """Waits until all processes are there.

    Args:
      place: that of this process.
      timeout: seconds to wait.
      silence: seconds after which a host that no longer answers is lost.

    Returns:
      Their meeting, which watches them from now on.

    Raises:
      UserError: not all have come, or they do not agree on how many they are.
    """
    peers = _receive(place, timeout, silence) if place.process_id == 0 else {0: _join(place, timeout, silence)}
    return Meeting(place, peers)


def numbers(missing: Iterable[int], count: int) -> str:
    """Names processes: `process 1 of 4`, `processes 1, 3 of 4`."""
    named = sorted(missing)
    return f"{'process' if len(named) == 1 else 'processes'} {', '.join(map(str, named))} of {count}"


def _receive(place: Place, timeout: int, silence: int) -> dict[int, _Peer]:
    """Process 0 waits for the others, and lets them go when all are there."""
    deadline = time.monotonic() + timeout
    peers: dict[int, _Peer] = {}
    with _listen(place) as server:
        while len(peers) < place.num_processes - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = set(range(1, place.num_processes)) - set(peers)
                have = "has" if len(missing) == 1 else "have"
                line = f"{numbers(missing, place.num_processes)} {have} not come to {place.coordinator} in {timeout} s"
                line += ": see their logs, or train alone with --num_processes 1"
                _send_all(peers.values(), error=line)
                raise UserError(line) from None
            peer = _Peer(connection, silence)
            with contextlib.suppress(OSError, ValueError):
                hello = peer.receive(timeout=5)
                peers = {process: other for process, other in peers.items() if other.silent()}
                error = _mistake(hello, place, peers)
                if error is None:
                    peers[hello["process"]] = peer
                else:
                    peer.send(error=error)
    _send_all(peers.values(), error=None)
    return peers


def _listen(place: Place) -> socket.socket:
    """Listens where JAX's own service will listen a moment later."""
    address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", ":" + place.coordinator.rpartition(":")[2])
    host, _, port = address.rpartition(":")
    both = not host.strip("[:]") and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or host.startswith("[") else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]").lstrip(":"), int(port)), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"process 0 cannot listen at port {port} ({os.strerror(error.errno or 0)}): choose another one"
        ) from error


def _mistake(hello: dict[str, Any], place: Place, peers: dict[int, _Peer]) -> str | None:
    process, count = hello.get("process"), hello.get("of")
    if count != place.num_processes:
        return (
            f"this is process {process} of {count}, but process 0 at {place.coordinator} expects {place.num_processes}"
        )
    if process not in range(1, place.num_processes) or process in peers:
        return f"there is another process {process} of {count} at {place.coordinator}"
    return None


def _join(place: Place, timeout: int, silence: int) -> _Peer:
    """The others come to process 0, which may start later than they, and wait until it lets them go."""
    deadline = time.monotonic() + timeout
    host, _, port = place.coordinator.rpartition(":")
    while True:
        try:
            peer = _Peer(socket.create_connection((host.strip("[]"), int(port)), timeout=5), silence)
            peer.send(process=place.process_id, of=place.num_processes)
            answer = peer.receive(timeout + 10)  # process 0 may count from later, and answers in any case
            break
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                what = (
                    "something else does"
                    if isinstance(error, ValueError)
                    else getattr(error, "strerror", None) or error
                )
                raise UserError(
                    f"{numbers([0], place.num_processes)} does not answer at {place.coordinator} after {timeout} s "
                    f"({what}): see its log, or train alone with --num_processes 1"
                ) from error
            time.sleep(0.2)
    if answer.get("error"):
        raise UserError(answer["error"])
    return peer


def _send_all(peers: Iterable[_Peer], **message: Any) -> None:
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.send(**message)


class Meeting:
    """The connections between processes while they work: process 0 has one to each of the others."""

    def __init__(self, place: Place, peers: dict[int, _Peer]) -> None:
        self.place = place
        self._peers = peers
        self._ending = threading.Lock()
        self._watchers = [_start(self._watch, process, peer) for process, peer in peers.items()]

    def _watch(self, process: int, peer: _Peer) -> None:
        try:
            message = peer.receive(timeout=None)
        except (OSError, ValueError):
            message = {"line": f"{numbers([process], self.place.num_processes)} is lost: {_RESUME}", "code": 1}
        if "line" in message and self._ending.acquire(blocking=False):
            self._exit(message["line"], message["code"], message)

    def end(self, line: str, code: int, *, known: bool = False) -> NoReturn:
        """Ends this process at once, and the others with it.

        Args:
          line: why; it is printed on standard error, also by the others, who name this process.
          code: exit code of all.
          known: the others end by themselves for the same reason.
        """
        self._ending.acquire()
        named = f"{numbers([self.place.process_id], self.place.num_processes)}: {line}"
        self._exit(line, code, {"bye": True} if known else {"line": named, "code": code})

    def _exit(self, line: str, code: int, last_words: dict[str, Any]) -> NoReturn:
        os.write(2, f"error: {line}\n".encode())
        _start(sys.stdout.flush).join(timeout=1)  # the main thread may be holding it
        _send_all(self._peers.values(), **last_words)
        if self.place.process_id == 0:
            # JAX aborts the others as soon as process 0 is gone: let them end in their own words first.
            deadline = time.monotonic() + 2
            for watcher in self._watchers:
                if watcher is not threading.current_thread():
                    watcher.join(timeout=max(0, deadline - time.monotonic()))
        os._exit(code)

    def leave(self) -> None:
        """Says goodbye, when the common work is done."""
        self._ending.acquire()
        _send_all(self._peers.values(), bye=True)


def _start(function: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread
