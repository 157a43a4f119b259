"""Those that have come say which do not, and why one is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import pytest

from tests.train.processes import free_port
from train.config.errors import UserError
from train.hosts.launcher import Rank
from train.hosts.rendezvous import rendezvous


def connect_all(ranks: Sequence[Rank]) -> list[str]:
    """The error of each of the processes, some of which are missing."""
    lines = [""] * len(ranks)

    def connect(index: int) -> None:
        try:
            rendezvous(ranks[index], timeout=2, silence=60)
        except UserError as error:
            lines[index] = str(error)

    threads = [threading.Thread(target=connect, args=(index,)) for index in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return lines


def test_those_that_have_come_name_the_others():
    address = f"localhost:{free_port()}"
    lines = connect_all([Rank(address, 4, 0), Rank(address, 4, 2)])
    line = (
        f"processes 1, 3 of 4 have not come to {address} in 2 s: see their logs, or train alone with --num_processes 1"
    )
    assert lines == [line] * 2


def test_a_process_whose_first_does_not_come_says_so():
    address = f"localhost:{free_port()}"
    (line,) = connect_all([Rank(address, 2, 1)])
    assert line.startswith(f"process 0 of 2 does not answer at {address} after 2 s (Connection refused): ")


def test_something_else_at_the_address_is_not_the_first():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")
            server.close()

        thread = threading.Thread(target=answer)
        thread.start()
        (line,) = connect_all([Rank(f"localhost:{port}", 2, 1)])
        thread.join()
    assert line.startswith(f"process 0 of 2 does not answer at localhost:{port} after 2 s")


def test_the_first_takes_no_process_twice_and_none_of_another_count():
    address = f"localhost:{free_port()}"
    lines = connect_all([Rank(address, 3, 0), Rank(address, 3, 1), Rank(address, 3, 1), Rank(address, 2, 1)])
    assert lines[0].startswith("process 2 of 3 has not come")
    assert sorted(lines[1:3]) == [lines[0], f"there is another process 1 of 3 at {address}"]
    assert lines[3] == f"this is process 1 of 2, but process 0 at {address} expects 3"


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (line,) = connect_all([Rank(f"localhost:{port}", 2, 0)])
    assert line == f"process 0 cannot listen at port {port} (Address already in use): choose another one"


def test_an_address_to_listen_at_that_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "0.0.0.0")
    (line,) = connect_all([Rank("localhost:5", 2, 0)])
    assert line == "JAX_COORDINATOR_BIND_ADDRESS='0.0.0.0' must be HOST:PORT, PORT from 1 to 65535"
