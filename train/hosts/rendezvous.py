"""The rendezvous of processes at the start: process 0 listens, the others connect to it, and it names missing ones."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

from train.config.errors import UserError
from train.hosts.group import Peer, ProcessGroup
from train.hosts.launcher import Rank, is_address

_HINT = "see {}, or train alone with --num_processes 1"


def rendezvous(rank: Rank, timeout: int, silence: int) -> ProcessGroup:
    """Connects all processes.

    Args:
      rank: of this process.
      timeout: seconds to wait for the others.
      silence: seconds after which a process that sends nothing counts as lost.

    Returns:
      The group, whose processes watch each other from now on.

    Raises:
      UserError: a process is missing, or they differ in their number.
    """
    peers = _accept_all(rank, timeout) if rank.process_id == 0 else {0: _connect(rank, timeout)}
    return ProcessGroup(rank, peers, silence)


def _accept_all(rank: Rank, timeout: int) -> dict[int, Peer]:
    """Process 0 accepts the others, and answers when all are connected."""
    deadline = time.monotonic() + timeout
    peers: dict[int, Peer] = {}
    with _listen(rank) as server:
        while len(peers) < rank.num_processes - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                line = rank.have(set(range(1, rank.num_processes)) - set(peers))
                line += f" not come to {rank.coordinator} in {timeout} s: {_HINT.format('their logs')}"
                for peer in peers.values():
                    peer.dismiss(line)
                raise UserError(line) from None
            peer = Peer(connection)
            with contextlib.suppress(OSError, ValueError):
                hello = peer.receive(timeout=5)
                peers = {process: other for process, other in peers.items() if other.is_waiting()}
                error = _mismatch(hello, rank, peers)
                if error is None:
                    peers[hello["process"]] = peer
                else:
                    peer.dismiss(error)
    for peer in peers.values():
        peer.send(error=None)
    return peers


def _listen(rank: Rank) -> socket.socket:
    """Listens at the address at which JAX's coordinator will listen afterwards."""
    name = "JAX_COORDINATOR_BIND_ADDRESS"
    address = os.environ.get(name, "[::]:" + rank.coordinator.rpartition(":")[2])
    if not is_address(address):
        raise UserError(f"{name}={address!r} must be HOST:PORT, PORT from 1 to 65535")
    host, _, port = address.rpartition(":")
    everywhere = host == "[::]" and socket.has_dualstack_ipv6()
    host = "" if host == "[::]" else host.strip("[]")
    family = socket.AF_INET6 if everywhere or ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, dualstack_ipv6=everywhere)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"process 0 cannot listen at port {port} ({why}): choose another one") from error


def _mismatch(hello: dict[str, Any], rank: Rank, peers: dict[int, Peer]) -> str | None:
    process, count = hello.get("process"), hello.get("of")
    if count != rank.num_processes:
        return f"this is process {process} of {count}, but process 0 at {rank.coordinator} expects {rank.num_processes}"
    if process not in range(1, rank.num_processes) or process in peers:
        return f"there is another process {process} of {count} at {rank.coordinator}"
    return None


def _connect(rank: Rank, timeout: int) -> Peer:
    """The others connect to process 0, which may start later, and wait for its answer."""
    deadline = time.monotonic() + timeout
    host, _, port = rank.coordinator.rpartition(":")
    while True:
        try:
            peer = Peer(socket.create_connection((host.strip("[]"), int(port)), timeout=5))
            peer.send(process=rank.process_id, of=rank.num_processes)
            answer = peer.receive(timeout + 10)  # process 0 may have started later, and always answers
            break
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                what = "something else does" if isinstance(error, ValueError) else error.strerror or error
                raise UserError(
                    f"{rank.named({0})} does not answer at {rank.coordinator} after {timeout} s ({what}): "
                    f"{_HINT.format('its log')}"
                ) from error
            time.sleep(0.2)
    if answer.get("error"):
        peer.close()
        raise UserError(answer["error"])
    return peer
