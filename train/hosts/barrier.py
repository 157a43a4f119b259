"""Processes that watch each other while they work, exchange what they know, and end together.

JAX aborts with a stack dump where a process is lost. Here every process learns that another is gone by a connection
that closes, or on which nothing comes any more, and says so.
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

from train.hosts.launcher import Place

_RESUME = "start all processes again, and the same command goes on from the last checkpoint"


class Peer:
    """A connection to another process, which carries one JSON object a line."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb")
        self._sending = threading.Lock()

    def send(self, **message: Any) -> None:
        """Where the other end is gone or silent, it is `receive` that says so."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def dismiss(self, error: str) -> None:
        """Sends an error, and closes the connection."""
        self.send(error=error)
        self.close()

    def close(self) -> None:
        self._reader.close()
        self._connection.close()

    def receive(self, timeout: float) -> dict[str, Any]:
        """Raises OSError where the other end is gone or silent, ValueError where it speaks another language."""
        self._connection.settimeout(timeout)
        line = self._reader.readline()
        if not line:
            raise ConnectionError("the connection was closed")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError(f"not a message: {line[:80]!r}")
        return message

    def quiet(self) -> bool:
        """Whether nothing has come, not even the end."""
        self._connection.settimeout(0)
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False


class Meeting:
    """The connections between processes while they work: process 0 has one to each of the others."""

    def __init__(self, place: Place, peers: dict[int, Peer], silence: int) -> None:
        self.place = place
        self._peers, self._silence = peers, silence
        self._ending = threading.Lock()
        self._table = threading.Lock()
        self._brought: dict[int, tuple[str, str]] = {}  # process 0 has what each has brought to the next exchange
        self._exchanged: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
        self._watchers = [_start(self._watch, process, peer) for process, peer in peers.items()]
        _start(self._ping)

    def exchange(self, name: str, text: str, timeout: float) -> list[str]:
        """Returns the texts that all processes bring, in their order; where some do not come, it ends all others.

        Args:
          name: what this is about; all processes call it under the same names in the same order.
          text: that of this process.
          timeout: seconds that processes wait for each other.
        """
        self._tell_first(name=name, text=text)
        try:
            return self._exchanged.get(timeout=timeout)
        except queue.Empty:
            self._tell_first(waited=timeout)  # that ends all, unless the last has come just now
            return self._exchanged.get()

    def end(self, line: str, code: int, *, known: bool = False) -> NoReturn:
        """Ends this process at once, and the others with it.

        Args:
          line: why; it is printed on standard error, also by the others, who name this process.
          code: exit code of all.
          known: the others end by themselves for the same reason.
        """
        self._ending.acquire()
        named = f"{self.place.named({self.place.process_id})}: {line}"
        self._exit(line, code, {"bye": True} if known else {"line": named, "code": code})

    def leave(self) -> None:
        """Says goodbye, when the common work is done."""
        self._ending.acquire()
        _send_all(self._peers.values(), bye=True)

    def _ping(self) -> None:
        while not self._ending.locked():
            _send_all(self._peers.values())
            time.sleep(self._silence / 4)

    def _watch(self, process: int, peer: Peer) -> None:
        """Takes what another process says, until that takes its leave."""
        try:
            while "bye" not in (message := peer.receive(self._silence)):
                self._take(process, message)
        except TimeoutError:
            self._end_all(f"{self.place.have({process})} been silent for {self._silence} s: {_RESUME}", 1)
        except (OSError, ValueError):
            self._end_all(f"{self.place.named({process})} is lost: {_RESUME}", 1)

    def _tell_first(self, **message: Any) -> None:
        if self.place.process_id == 0:
            self._take(0, message)
        else:
            self._peers[0].send(**message)

    def _take(self, process: int, message: dict[str, Any]) -> None:
        if "line" in message:
            self._end_all(message["line"], message["code"])
        elif "texts" in message:
            self._exchanged.put(message["texts"])
        elif "text" in message:
            self._take_text(process, message["name"], message["text"])
        elif "waited" in message:
            with self._table:
                come = dict(self._brought)
            if process in come:
                missing = set(range(self.place.num_processes)) - set(come)
                line = f"{self.place.have(missing)} not reached {come[process][0]!r} after {message['waited']:g} s"
                self._end_all(line, 2)

    def _take_text(self, process: int, name: str, text: str) -> None:
        """Process 0 gives all texts to all when the last one has come; nobody brings the next one before that."""
        with self._table:
            self._brought[process] = (name, text)
            if len(self._brought) < self.place.num_processes:
                return
            brought, self._brought = self._brought, {}
        for other, (another, _) in brought.items():
            if another != name:
                line = f"{self.place.named({other})} is at {another!r}, and process {process} at {name!r}"
                self._end_all(f"{line}: they must do the same", 1)
        texts = [brought[each][1] for each in range(self.place.num_processes)]
        _send_all(self._peers.values(), texts=texts)
        self._exchanged.put(texts)

    def _end_all(self, line: str, code: int) -> None:
        if self._ending.acquire(blocking=False):
            self._exit(line, code, {"line": line, "code": code})

    def _exit(self, line: str, code: int, last_words: dict[str, Any]) -> NoReturn:
        with contextlib.suppress(OSError):  # where nobody reads it
            os.write(2, f"error: {line}\n".encode())
        # Neither may keep it from ending: the main thread may hold standard output, a frozen process hears nothing.
        speakers = [_start(partial(peer.send, **last_words)) for peer in self._peers.values()]
        _wait([_start(_flush), *speakers], 1)
        if self.place.process_id == 0:
            # JAX aborts the others as soon as process 0 is gone: let them end in their own words first.
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
