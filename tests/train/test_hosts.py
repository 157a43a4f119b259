"""Several processes come together, agree, and end together; launchers are known by their variables."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Sequence

import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster

from tests.train.processes import flags, free_port, processes
from train.cli import parse
from train.errors import UserError, explain
from train.hosts import Hosts, barrier, connected, gather, is_first, on_first, standing
from train.meeting import Place, meet
from train.preemption import preemption

_LOST = "is lost: start all processes again, and the same command goes on from the last checkpoint"


def member(scenario: str) -> list[str]:
    return ["-m", "tests.train.member", scenario]


def said(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if not line.startswith("[Gloo]")]


def by_jax(process: int, port: int) -> dict[str, str]:
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(process),
    }


def by_slurm(process: int, port: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
    }


def by_open_mpi(process: int, port: int) -> dict[str, str]:
    return {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("JAX_COORDINATOR", "JAX_NUM_", "JAX_PROCESS_", "SLURM_", "OMPI_", "KUBERNETES_", "TPU_")):
            monkeypatch.delenv(name)


def test_processes_agree_on_values_and_on_the_step_of_a_preemption_that_one_has_notice_of():
    with processes(lambda process, port: [*member("agree"), *flags(process, 2, port)]) as both:
        for process in both:
            process.wait_for("working")
        both[1].signal(signal.SIGTERM)
        assert [process.finish() for process in both] == [0, 0]
    for number, process in enumerate(both):
        assert said(process.out)[:3] == [
            f"process {number} of 2: 4 of 8 devices (cpu), 32 of 64 images a step",
            "gathered [[0], [1]] ['again', 'again']",
            "first {'process': 0}",
        ]
    steps = [process.wait_for("preempted at") for process in both]
    assert steps[0] == steps[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_other_ends_with_a_line(victim: int):
    with processes(lambda process, port: member("agree"), variables=by_open_mpi) as both:
        for process in both:
            process.wait_for("working")
        both[victim].signal(signal.SIGKILL)
        survivor = both[1 - victim]
        code = survivor.finish()
    if victim == 0 and code == -signal.SIGABRT:
        return  # JAX's own service died with the first, and JAX was quicker: its message ends in "another task died"
    assert (code, survivor.errors()) == (1, [f"error: process {victim} of 2 {_LOST}"])


def test_an_error_on_the_first_reaches_all():
    with processes(lambda process, port: member("refuse"), variables=by_slurm) as both:
        assert [process.finish() for process in both] == [2, 2]
    assert [process.errors() for process in both] == [["error: the folder is taken"]] * 2


def test_a_barrier_names_those_that_do_not_come():
    with processes(lambda process, port: member("stay_away"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [2, 2]
    line = "process 1 of 2 has not reached 'the middle' after 1 s"
    assert [process.errors() for process in both] == [[f"error: {line}"], [f"error: process 0 of 2: {line}"]]


def test_an_error_in_one_process_ends_the_others():
    with processes(lambda process, port: member("fail_alone"), variables=by_jax) as both:
        assert [process.finish() for process in both] == [2, 2]
    line = "image 7 cannot be read"
    assert [process.errors() for process in both] == [[f"error: process 1 of 2: {line}"], [f"error: {line}"]]


def meet_all(places: Sequence[Place]) -> list[str]:
    """What each says of a meeting that not all come to."""
    lines = [""] * len(places)

    def attend(index: int) -> None:
        try:
            meet(places[index], timeout=2, silence=60)
        except UserError as error:
            lines[index] = str(error)

    threads = [threading.Thread(target=attend, args=(index,)) for index in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return lines


def test_those_that_have_come_name_the_others():
    address = f"localhost:{free_port()}"
    lines = meet_all([Place(address, 4, 0), Place(address, 4, 2)])
    line = (
        f"processes 1, 3 of 4 have not come to {address} in 2 s: see their logs, or train alone with --num_processes 1"
    )
    assert lines == [line] * 2


def test_a_process_whose_first_does_not_come_says_so():
    address = f"localhost:{free_port()}"
    (line,) = meet_all([Place(address, 2, 1)])
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
        (line,) = meet_all([Place(f"localhost:{port}", 2, 1)])
        thread.join()
    assert line.startswith(f"process 0 of 2 does not answer at localhost:{port} after 2 s")


def test_the_first_takes_no_process_twice_and_none_of_another_count():
    address = f"localhost:{free_port()}"
    lines = meet_all([Place(address, 3, 0), Place(address, 3, 1), Place(address, 3, 1), Place(address, 2, 1)])
    assert lines[0].startswith("process 2 of 3 has not come")
    assert sorted(lines[1:3]) == [lines[0], f"there is another process 1 of 3 at {address}"]
    assert lines[3] == f"this is process 1 of 2, but process 0 at {address} expects 3"


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (line,) = meet_all([Place(f"localhost:{port}", 2, 0)])
    assert line == f"process 0 cannot listen at port {port} (Address already in use): choose another one"


def test_one_process_agrees_with_itself():
    with connected(Hosts()):
        barrier("here")
        assert gather("numbers", (1, 2)) == [[1, 2]]
        assert on_first("count", lambda: {"a": (3,)}) == {"a": [3]}
        assert is_first()
        assert standing(64) == "8 devices (cpu), 64 images a step"
        with pytest.raises(UserError, match="no"):
            on_first("refuse", refuse)
    with pytest.raises(KeyError), connected(Hosts(num_processes=1)):
        raise KeyError


def refuse() -> None:
    raise UserError("no")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--coordinator", "a:1"], "--coordinator must come with --num_processes and --process_id"),
        (
            ["--num_processes", "2", "--process_id", "0"],
            "--num_processes and --process_id must come with --coordinator",
        ),
        (flags(2, 2, 1), "--process_id=2 must be at least 0 and below --num_processes=2"),
        (["--coordinator", "a", "--num_processes", "2", "--process_id", "0"], "--coordinator='a' must be HOST:PORT"),
        (["--num_processes", "0"], "--num_processes=0 must be at least 1"),
        (["--heartbeat_timeout", "0"], "--heartbeat_timeout=0 must be at least 1"),
    ],
)
def test_flags_that_do_not_fit(given: list[str], message: str):
    with pytest.raises(UserError) as error:
        parse(Hosts, given, prog="train")
    assert str(error.value).endswith(message)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
        {**by_slurm(0, 1), "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
        {name: value for name, value in by_slurm(0, 1).items() if not name.startswith("SLURM_STEP")},
        {**by_open_mpi(0, 1), "OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
    ],
    ids=["laptop", "jax of one", "slurm of one", "shell in an allocation", "mpi of one", "a pod", "no tpu"],
)
def test_alone(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    assert Hosts().place() is None


KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        (by_jax(1, 5), Place("localhost:5", 2, 1)),
        (by_slurm(1, 5), Place("localhost:5", 2, 1, [1])),
        ({**by_slurm(1, 5), "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}, Place("localhost:5", 2, 1)),
        ({**by_slurm(1, 5), "JAX_COORDINATOR_ADDRESS": "b:6"}, Place("b:6", 2, 1, [1])),
        (by_open_mpi(1, 5), Place("127.0.0.1:5", 2, 1, [1])),
        ({**by_open_mpi(1, 5), "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, Place("127.0.0.1:5", 2, 1)),
        (KUBERNETES | {"JAX_COORDINATOR_ADDRESS": "p-0.p:5", "JAX_NUM_PROCESSES": "4"}, Place("p-0.p:5", 4, 1)),
    ],
    ids=["jax", "slurm", "slurm, a task a node", "slurm and an address", "mpi", "mpi, one a host", "kubernetes"],
)
def test_launchers(variables: dict[str, str], place: Place, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    assert Hosts().place() == place
    assert Hosts(num_processes=1).place() is None
    assert Hosts("c:7", 3, 2).place() == Place("c:7", 3, 2)


@pytest.fixture
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A host with TPU chips, the second of two by the metadata server; returns what that is asked for."""
    asked = []
    answers = {"agent-worker-number": "1", "worker-network-endpoints": "n:1:127.0.0.1,n:2:10.0.0.2", "tpu-env": ""}

    def ask(key: str) -> tuple[str, int]:
        asked.append(key)
        return answers[key], 200

    monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", ask)
    return asked


def test_hosts_of_a_cloud_tpu_slice_know_each_other_from_metadata(on_tpu: list[str]):
    assert Hosts().place() == Place("127.0.0.1:8482", 2, 1)
    assert Hosts(num_processes=1).place() is None


def test_hosts_of_cloud_tpu_slices_know_each_other_from_variables(on_tpu: list[str], monkeypatch: pytest.MonkeyPatch):
    slices = {"COORDINATOR_ADDRESS": "localhost", "NUM_SLICES": "2", "SLICE_ID": "1"}
    set_all(monkeypatch, {f"MEGASCALE_{name}": value for name, value in slices.items()})
    set_all(monkeypatch, {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "TPU_SKIP_MDS_QUERY": "1"})
    assert Hosts().place() == Place("localhost:8482", 4, 3)
    assert on_tpu == []


@pytest.mark.parametrize("variables", [{"TPU_WORKER_HOSTNAMES": "localhost"}, {"TPU_SKIP_MDS_QUERY": "1"}])
def test_one_host_with_tpus_asks_nobody(variables: dict[str, str], on_tpu: list[str], monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    assert Hosts().place() is None
    assert on_tpu == []


@pytest.mark.parametrize(
    ("variables", "beginning"),
    [
        ({"JAX_PROCESS_ID": "1"}, "the environment speaks of several processes, but it is not known where they are: "),
        ({**by_jax(0, 5), "JAX_NUM_PROCESSES": "two"}, "the environment speaks of several processes, but it is not "),
        ({**by_jax(0, 5), "JAX_PROCESS_ID": "2"}, "process 2 of 2 at 'localhost:5'"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI started several processes, but it is not known where they are"),
        (KUBERNETES, "Kubernetes started several processes, but it is not known where they are"),
    ],
    ids=["half of jax", "no number", "beyond", "mpi without a server", "kubernetes"],
)
def test_environments_that_leave_it_open(variables: dict[str, str], beginning: str, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UserError) as error, warnings.catch_warnings(action="ignore"):
        Hosts().place()
    assert str(error.value).startswith(beginning)


def test_sigterm_is_noticed_once():
    usual = signal.getsignal(signal.SIGTERM)
    with preemption() as reached:
        assert not reached(0)
        os.kill(os.getpid(), signal.SIGTERM)
        assert reached(1)
        assert signal.getsignal(signal.SIGTERM) == usual
    with preemption() as reached:
        assert not reached(0)
        assert signal.getsignal(signal.SIGTERM) != usual
    assert signal.getsignal(signal.SIGTERM) == usual


def test_no_signal_comes_to_another_thread():
    seen = []

    def work() -> None:
        with preemption() as reached:
            seen.append(reached(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (UserError("a\n b"), ("a b", 2)),
        (OSError(28, "No space left on device", "/x"), ("/x: No space left on device", 2)),
        (MemoryError(), ("out of memory: lower data.batch_size or data.image_size", 2)),
        (KeyboardInterrupt(), ("interrupted; the same command goes on from the last checkpoint", 130)),
        (KeyError("a"), None),
    ],
)
def test_what_a_user_can_mend_is_explained_in_one_line(error: BaseException, explained: tuple[str, int] | None):
    assert explain(error) == explained
