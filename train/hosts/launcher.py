"""The rank of this process, as its launcher sets it: Slurm, Open MPI, Kubernetes or Cloud TPU."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

from train.config.errors import UserError

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_NAMES_IN_JAX = {"Slurm": "slurm", "Open MPI": "ompi"}


@dataclasses.dataclass(frozen=True)
class Rank:
    """The rank of a process among several.

    Attributes:
      coordinator: HOST:PORT of process 0.
      num_processes: number of processes.
      process_id: index of this process.
      local_devices: ids of the devices that it uses; None for all of its host.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_devices: Sequence[int] | None = None

    def named(self, processes: Iterable[int]) -> str:
        """Names processes: `process 1 of 4`, `processes 1, 3 of 4`."""
        numbers = sorted(processes)
        return f"process{'' if len(numbers) == 1 else 'es'} {', '.join(map(str, numbers))} of {self.num_processes}"

    def have(self, processes: set[int]) -> str:
        """As `named`, with the verb: `process 1 of 4 has`, `processes 1, 3 of 4 have`."""
        return f"{self.named(processes)} {'has' if len(processes) == 1 else 'have'}"


def is_address(text: str) -> bool:
    """Whether this is HOST:PORT; an IPv6 host is in brackets."""
    host = re.fullmatch(r"(?:[^\s:/\[\]]+|\[[^\s\[\]]+\]):([0-9]{1,5})", text)
    return host is not None and 0 < int(host[1]) < 1 << 16


def detect_rank(timeout: int) -> Rank | None:
    """Returns the rank of this process from its environment; None for a single process.

    JAX's three variables come first. JAX detects what they leave open from the launcher, but only if that has started
    several processes: the detection may wait for a metadata or name server.

    Args:
      timeout: seconds to wait for a server.

    Raises:
      UserError: there are several processes, but the rank is not fully known.
    """
    launcher = _launcher()
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    if launcher == "Kubernetes":
        given.setdefault("JAX_PROCESS_ID", os.environ["JOB_COMPLETION_INDEX"])
    if (launcher is None and not given) or given.get("JAX_NUM_PROCESSES") == "1":
        return None
    count, process = (_number(name, given) for name in _VARIABLES[1:])
    known = (given.get("JAX_COORDINATOR_ADDRESS"), count, process)
    unknown = _unknown(launcher, [name for name in _VARIABLES if name not in given])
    if None in known and launcher is not None:
        try:
            known = _ask_jax(launcher, *known, timeout)
        except Exception as error:  # JAX's detection raises many types
            raise UserError(f"{unknown} ({type(error).__name__}: {error})") from error
    address, num_processes, process_id = known
    if num_processes == 1:
        return None
    if address is None or num_processes is None or process_id is None:
        raise UserError(unknown)
    if not is_address(address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address!r} must be HOST:PORT, PORT from 1 to 65535")
    if process_id >= num_processes:
        raise UserError(f"JAX_PROCESS_ID={process_id} must be below JAX_NUM_PROCESSES={num_processes}")
    return Rank(address, num_processes, process_id, _local_devices(launcher, num_processes))


def _number(name: str, variables: Mapping[str, str] = os.environ) -> int | None:
    text = variables.get(name)
    if text is not None and not text.isdecimal():
        raise UserError(f"{name}={text!r} must be a whole number, at least 0")
    return None if text is None else int(text)


def _are_several(name: str) -> bool:
    """Whether a variable holds a number greater than 1."""
    return (_number(name) or 1) > 1


def _unknown(launcher: str | None, missing: Sequence[str]) -> str:
    subject = {None: "the environment describes", "Kubernetes": "an indexed Job of Kubernetes has"}
    return (
        f"{subject.get(launcher, f'{launcher} started')} several processes, but their addresses are not known: "
        f"set {' and '.join(missing)}, or train alone with --num_processes 1"
    )


def _launcher() -> str | None:
    """Name of the launcher that started several processes; None if there is none."""
    variables = os.environ
    if _are_several("OMPI_COMM_WORLD_SIZE"):
        return "Open MPI"
    # A shell in an allocation has SLURM_NTASKS as well, but no step.
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in variables else "SLURM_NTASKS"
    if "SLURM_STEP_NODELIST" in variables and _are_several(tasks):
        return "Slurm"
    if _on_tpu_of_many_hosts():
        return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in variables and "JOB_COMPLETION_INDEX" in variables:
        return "Kubernetes"
    return None


def _on_tpu_of_many_hosts() -> bool:
    """Whether this host has TPU chips and may be one of several, as only a metadata server knows without variables."""
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm:
        return False
    if _are_several("MEGASCALE_NUM_SLICES") or "TPU_PROCESS_ADDRESSES_PATH" in os.environ:
        return True
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    return "TPU_SKIP_MDS_QUERY" not in os.environ if hosts is None else "," in hosts


def _ask_jax(
    launcher: str, coordinator: str | None, count: int | None, process: int | None, timeout: int
) -> tuple[str | None, int | None, int | None]:
    from jax._src.clusters import ClusterEnv

    method = _NAMES_IN_JAX.get(launcher)
    with warnings.catch_warnings(action="ignore"):  # our own message says what to set
        found = ClusterEnv.auto_detect_unset_distributed_params(coordinator, count, process, [], method, timeout)
    return found[0], found[1], found[2]


def _local_devices(launcher: str | None, num_processes: int) -> list[int] | None:
    """As in JAX, each of several processes on a host uses one device, and a single one all."""
    name = None
    if launcher == "Slurm" and _number("SLURM_STEP_NUM_NODES") != num_processes:
        name = "SLURM_LOCALID"
    if launcher == "Open MPI" and _number("OMPI_COMM_WORLD_LOCAL_SIZE") != 1:
        name = "OMPI_COMM_WORLD_LOCAL_RANK"
    if name is None:
        return None
    number = _number(name)
    if number is None:
        raise UserError(f"{launcher} started several processes, but {name} is not set, which selects their devices")
    return [number]
