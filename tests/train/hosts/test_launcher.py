"""Launchers are known by their variables, and flags come before them."""

from __future__ import annotations

import os
import sys
import warnings

import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster

from tests.train.launchers import KUBERNETES, PREFIXES, by_jax, by_open_mpi, by_slurm
from tests.train.processes import flags
from train.config.errors import UserError
from train.config.flags import parse
from train.hosts.launcher import Rank
from train.hosts.processes import Hosts


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--coordinator", "a:1"], "--coordinator must come with --num_processes and --process_id"),
        (
            ["--num_processes", "2", "--process_id", "0"],
            "--num_processes and --process_id must come with --coordinator",
        ),
        (flags(2, 2, 1), "--process_id=2 must be at least 0 and below --num_processes=2"),
        *(
            (
                ["--coordinator", address, "--num_processes", "2", "--process_id", "0"],
                f"{address!r} must be HOST:PORT, PORT from 1 to 65535",
            )
            for address in ("a", ":5", "a:", "a:b", "a:0", "a:65536", "http://a:5", "::1:5", "[]:5", "a b:5")
        ),
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
        KUBERNETES | {"JAX_NUM_PROCESSES": "1"},
        {"TPU_WORKER_HOSTNAMES": "a,b"},
    ],
    ids=[
        "laptop",
        "jax of one",
        "slurm of one",
        "shell in an allocation",
        "mpi of one",
        "a pod",
        "job of one",
        "no tpu",
    ],
)
def test_alone(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    assert Hosts().rank() is None


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        (by_jax(1, 5), Rank("localhost:5", 2, 1)),
        (by_slurm(1, 5), Rank("localhost:5", 2, 1, [1])),
        ({**by_slurm(1, 5), "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}, Rank("localhost:5", 2, 1)),
        ({**by_slurm(1, 5), "JAX_COORDINATOR_ADDRESS": "b:6"}, Rank("b:6", 2, 1, [1])),
        (by_open_mpi(1, 5), Rank("127.0.0.1:5", 2, 1, [1])),
        ({**by_open_mpi(1, 5), "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, Rank("127.0.0.1:5", 2, 1)),
        (KUBERNETES | {"JAX_COORDINATOR_ADDRESS": "p-0.p:5", "JAX_NUM_PROCESSES": "4"}, Rank("p-0.p:5", 4, 1)),
    ],
    ids=["jax", "slurm", "slurm, a task a node", "slurm and an address", "mpi", "mpi, one a host", "kubernetes"],
)
def test_launchers(variables: dict[str, str], rank: Rank, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    assert Hosts().rank() == rank
    assert Hosts(num_processes=1).rank() is None
    assert Hosts("c:7", 3, 2).rank() == Rank("c:7", 3, 2)


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
    assert Hosts().rank() == Rank("127.0.0.1:8482", 2, 1)
    assert Hosts(num_processes=1).rank() is None


def test_hosts_of_cloud_tpu_slices_know_each_other_from_variables(on_tpu: list[str], monkeypatch: pytest.MonkeyPatch):
    slices = {"COORDINATOR_ADDRESS": "localhost", "NUM_SLICES": "2", "SLICE_ID": "1"}
    set_all(monkeypatch, {f"MEGASCALE_{name}": value for name, value in slices.items()})
    set_all(monkeypatch, {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "TPU_SKIP_MDS_QUERY": "1"})
    assert Hosts().rank() == Rank("localhost:8482", 4, 3)
    assert on_tpu == []


@pytest.mark.parametrize("variables", [{"TPU_WORKER_HOSTNAMES": "localhost"}, {"TPU_SKIP_MDS_QUERY": "1"}])
def test_one_host_with_tpus_asks_nobody(variables: dict[str, str], on_tpu: list[str], monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    assert Hosts().rank() is None
    assert on_tpu == []


@pytest.mark.parametrize(
    ("variables", "beginning"),
    [
        ({"JAX_PROCESS_ID": "1"}, "the environment describes several processes, but their addresses are not known: "),
        ({**by_jax(0, 5), "JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES='two' must be a whole number, at least 0"),
        ({**by_jax(0, 5), "JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID=2 must be below JAX_NUM_PROCESSES=2"),
        (
            {**by_jax(0, 5), "JAX_COORDINATOR_ADDRESS": ":5"},
            "JAX_COORDINATOR_ADDRESS=':5' must be HOST:PORT, PORT from 1 to 65535",
        ),
        (
            {**by_slurm(0, 5), "JAX_COORDINATOR_ADDRESS": "a:"},
            "JAX_COORDINATOR_ADDRESS='a:' must be HOST:PORT, PORT from 1 to 65535",
        ),
        (by_slurm(0, 5) | {"SLURM_STEP_NUM_TASKS": "2(x)"}, "SLURM_STEP_NUM_TASKS='2(x)' must be a whole number, at "),
        (by_slurm(0, 5) | {"SLURM_LOCALID": "-"}, "SLURM_LOCALID='-' must be a whole number, at least 0"),
        (by_open_mpi(0, 5) | {"OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE='two' must be a whole"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI started several processes, but their addresses are not known"),
        (
            KUBERNETES,
            "an indexed Job of Kubernetes has several processes, but their addresses are not known: "
            "set JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES, or train alone with --num_processes 1",
        ),
        (
            KUBERNETES | {"JAX_NUM_PROCESSES": "4"},
            "an indexed Job of Kubernetes has several processes, but their addresses are not known: "
            "set JAX_COORDINATOR_ADDRESS, or train alone with --num_processes 1",
        ),
    ],
    ids=[
        "half of jax",
        "no number",
        "beyond",
        "no host",
        "no port",
        "slurm's tasks",
        "slurm's devices",
        "mpi's size",
        "mpi without a server",
        "kubernetes",
        "half of it",
    ],
)
def test_environments_that_leave_it_open(variables: dict[str, str], beginning: str, monkeypatch: pytest.MonkeyPatch):
    set_all(monkeypatch, variables)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(UserError) as error, warnings.catch_warnings(action="error"):
        Hosts().rank()
    assert str(error.value).startswith(beginning)
