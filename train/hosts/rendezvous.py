"""How processes come together: process 0 listens, the others come to it, and it names those that do not."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import Any

from train.config.errors import UserError
from train.hosts.barrier import Meeting, Peer
from train.hosts.launcher import Place, is_address

_ALONE = "see {}, or train alone with --num_processes 1"


def meet(place: Place, timeout: int, silence: int) -> Meeting:
    """Waits until all processes are there.

    Args:
      place: that of this process.
      timeout: seconds to wait.
      silence: seconds after which a process of which nothing is heard is lost.

    Returns:
      Their meeting, which watches them from now on.

    Raises:
      UserError: not all have come, or they do not agree on how many they are.
    """
    return Meeting(place, _receive(place, timeout) if place.process_id == 0 else {0: _join(place, timeout)}, silence)


def _receive(place: Place, timeout: int) -> dict[int, Peer]:
    """Process 0 waits for the others, and lets them go when all are there."""
    deadline = time.monotonic() + timeout
    peers: dict[int, Peer] = {}
    with _listen(place) as server:
        while len(peers) < place.num_processes - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                line = place.have(set(range(1, place.num_processes)) - set(peers))
                line += f" not come to {place.coordinator} in {timeout} s: {_ALONE.format('their logs')}"
                for peer in peers.values():
                    peer.dismiss(line)
                raise UserError(line) from None
            peer = Peer(connection)
            with contextlib.suppress(OSError, ValueError):
                hello = peer.receive(timeout=5)
                peers = {process: other for process, other in peers.items() if other.quiet()}
                error = _mistake(hello, place, peers)
                if error is None:
                    peers[hello["process"]] = peer
                else:
                    peer.dismiss(error)
    for peer in peers.values():
        peer.send(error=None)
    return peers


def _listen(place: Place) -> socket.socket:
    """Listens where JAX's own service will listen a moment later."""
    name = "JAX_COORDINATOR_BIND_ADDRESS"
    address = os.environ.get(name, "[::]:" + place.coordinator.rpartition(":")[2])
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


def _mistake(hello: dict[str, Any], place: Place, peers: dict[int, Peer]) -> str | None:
    process, count = hello.get("process"), hello.get("of")
    if count != place.num_processes:
        return (
            f"this is process {process} of {count}, but process 0 at {place.coordinator} expects {place.num_processes}"
        )
    if process not in range(1, place.num_processes) or process in peers:
        return f"there is another process {process} of {count} at {place.coordinator}"
    return None


def _join(place: Place, timeout: int) -> Peer:
    """The others come to process 0, which may start later than they, and wait until it lets them go."""
    deadline = time.monotonic() + timeout
    host, _, port = place.coordinator.rpartition(":")
    while True:
        try:
            peer = Peer(socket.create_connection((host.strip("[]"), int(port)), timeout=5))
            peer.send(process=place.process_id, of=place.num_processes)
            answer = peer.receive(timeout + 10)  # process 0 may count from later, and answers in any case
            break
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                what = "something else does" if isinstance(error, ValueError) else error.strerror or error
                raise UserError(
                    f"{place.named({0})} does not answer at {place.coordinator} after {timeout} s ({what}): "
                    f"{_ALONE.format('its log')}"
                ) from error
            time.sleep(0.2)
    if answer.get("error"):
        peer.close()
        raise UserError(answer["error"])
    return peer
