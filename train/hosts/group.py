"""A group of processes that exchange messages, watch each other, and end together.

JAX aborts with a stack dump when a process is lost. Here every process learns of it from a connection that is closed or
silent, and ends with one line that names the lost process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

from train.hosts.launcher import Rank

_RESUME = "start all processes again with the same command: it resumes from the last checkpoint"


class Peer:
    """A connection to another process that carries one JSON object per line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends a message. A lost or silent peer is reported by `receive`, not here."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def dismiss(self, error: str) -> None:
        """Sends an error and closes the connection."""
        self.send(error=error)
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def receive(self, timeout: float) -> dict[str, Any]:
        """Returns the next message.

        Raises:
          OSError: the peer is lost, or silent for `timeout` seconds.
          ValueError: the peer does not send JSON objects.
        """
        self._connection.settimeout(timeout)
        line = self._reader.readline()
        if not line:
            raise ConnectionError("the connection was closed")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"not a message: {line[:80]!r}")
        return message

    def is_waiting(self) -> bool:
        """Whether the connection is open and nothing has been received."""
        self._connection.settimeout(0)
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False


class ProcessGroup:
    """Connected processes: process 0 has a connection to each of the others."""

    def __init__(self, rank: Rank, peers: dict[int, Peer], silence: int) -> None:
        self.rank = rank
        self._peers, self._silence = peers, silence
        self._ending = threading.Lock()
        self._pending_lock = threading.Lock()
        self._pending: dict[int, tuple[str, str]] = {}  # on process 0: name and text of each, for the next exchange
        self._results: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._watchers = [_start(self._watch, process, peer) for process, peer in peers.items()]
        _start(self._ping)

    def exchange(self, name: str, text: str, timeout: float) -> list[str]:
        """Returns the texts of all processes, by process. If some do not take part, it ends all others.

        Args:
          name: of this exchange; all processes make the same exchanges in the same order.
          text: of this process.
          timeout: seconds to wait for the other processes.
        """
        self._send_first(name=name, text=text)
        try:
            return self._results.get(timeout=timeout)
        except queue.Empty:
            self._send_first(waited=timeout)  # ends all, unless the last text has arrived meanwhile
            return self._results.get()

    def end(self, line: str, code: int, *, known: bool = False) -> NoReturn:
        """Ends this process at once, and the others with it.

        Args:
          line: the error that all print to stderr; the others name this process.
          code: exit code of all.
          known: whether the others end by themselves, for the same reason.
        """
        self._ending.acquire()
        named = f"{self.rank.named({self.rank.process_id})}: {line}"
        self._exit(line, code, {"bye": True} if known else {"line": named, "code": code})

    def leave(self) -> None:
        """Leaves the group, at the end of the program."""
        self._ending.acquire()
        _send_all(self._peers.values(), bye=True)

    def _ping(self) -> None:
        while not self._ending.locked():
            _send_all(self._peers.values())
            time.sleep(self._silence / 4)

    def _watch(self, process: int, peer: Peer) -> None:
        """Handles the messages of another process until it leaves."""
        try:
            while "bye" not in (message := peer.receive(self._silence)):
                self._handle(process, message)
        except TimeoutError:
            self._end_all(f"{self.rank.have({process})} been silent for {self._silence} s: {_RESUME}", 1)
        except (OSError, ValueError):
            self._end_all(f"{self.rank.named({process})} is lost: {_RESUME}", 1)

    def _send_first(self, **message: Any) -> None:
        if self.rank.process_id == 0:
            self._handle(0, message)
        else:
            self._peers[0].send(**message)

    def _handle(self, process: int, message: dict[str, Any]) -> None:
        if "line" in message:
            self._end_all(message["line"], message["code"])
        elif "texts" in message:
            self._results.put(message["texts"])
        elif "text" in message:
            self._add_text(process, message["name"], message["text"])
        elif "waited" in message:
            with self._pending_lock:
                arrived = dict(self._pending)
            if process in arrived:
                missing = set(range(self.rank.num_processes)) - set(arrived)
                line = f"{self.rank.have(missing)} not reached {arrived[process][0]!r} after {message['waited']:g} s"
                self._end_all(line, 2)

    def _add_text(self, process: int, name: str, text: str) -> None:
        """Process 0 sends all texts to all processes once it has the last one."""
        with self._pending_lock:
            self._pending[process] = (name, text)
            if len(self._pending) < self.rank.num_processes:
                return
            complete, self._pending = self._pending, {}
        for other, (another, _) in complete.items():
            if another != name:
                line = f"{self.rank.named({other})} is at {another!r}, and process {process} at {name!r}"
                self._end_all(f"{line}: they must do the same", 1)
        texts = [complete[each][1] for each in range(self.rank.num_processes)]
        _send_all(self._peers.values(), texts=texts)
        self._results.put(texts)

    def _end_all(self, line: str, code: int) -> None:
        if self._ending.acquire(blocking=False):
            self._exit(line, code, {"line": line, "code": code})

    def _exit(self, line: str, code: int, message: dict[str, Any]) -> NoReturn:
        with contextlib.suppress(OSError):  # stderr may be closed
            os.write(2, f"error: {line}\n".encode())
        # Both may block: the main thread may hold stdout, and a frozen process does not receive.
        senders = [_start(partial(peer.send, **message)) for peer in self._peers.values()]
        _wait([_start(_flush), *senders], 1)
        if self.rank.process_id == 0:
            # JAX aborts the others as soon as process 0 is gone: let them print their lines first.
            _wait(self._watchers, 2)
        os._exit(code)


def _send_all(peers: Iterable[Peer], **message: Any) -> None:
    for peer in peers:
        peer.send(**message)


def _flush() -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()


def _start(function: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _wait(threads: Iterable[threading.Thread], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join(max(0, deadline - time.monotonic()))
