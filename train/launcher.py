"""What launchers say in the environment of a process: Slurm, Open MPI, Kubernetes and Cloud TPU."""

from __future__ import annotations

import os

from train.errors import UserError
from train.meeting import Place

_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_NAMES_IN_JAX = {"Slurm": "slurm", "Open MPI": "ompi"}


def launched_place(timeout: int) -> Place | None:
    """Where the environment says that this process stands; None for one that is alone.

    JAX's three variables come first. What they leave open, JAX finds out from the launcher. It is asked only where a
    launcher says that there are others: it may wait for a metadata server or a name server.

    Args:
      timeout: seconds to wait for those.

    Raises:
      UserError: the environment says that there are others, but not where.
    """
    launcher = _launcher()
    coordinator, count, process = (os.environ.get(name) for name in _VARIABLES)
    if launcher == "Kubernetes":
        process = process or os.environ["JOB_COMPLETION_INDEX"]
    if launcher is None and coordinator == count == process is None:
        return None
    if count == "1":
        return None
    try:
        known = (coordinator, None if count is None else int(count), None if process is None else int(process))
        if None in known and launcher is not None:
            known = _ask_jax(launcher, *known, timeout)
    except Exception as error:  # JAX's detection raises many kinds
        raise UserError(_unknown(launcher, f" ({type(error).__name__}: {error})")) from error
    address, num_processes, process_id = known
    if num_processes == 1:
        return None
    if address is None or num_processes is None or process_id is None:
        raise UserError(_unknown(launcher))
    if ":" not in address or not 0 <= process_id < num_processes:
        raise UserError(
            f"process {process_id} of {num_processes} at {address!r}: must be HOST:PORT and below the count"
        )
    return Place(address, num_processes, process_id, _local_devices(launcher, num_processes))


def _unknown(launcher: str | None, why: str = "") -> str:
    who = f"{launcher} started" if launcher else "the environment speaks of"
    cure = f"set {', '.join(_VARIABLES)}, or train alone with --num_processes 1"
    return f"{who} several processes, but it is not known where they are{why}: {cure}"


def _launcher() -> str | None:
    """The launcher that started this process together with others."""
    said = os.environ
    if int(said.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return "Open MPI"
    # A shell in an allocation knows its number of tasks as well, but it is not one of them.
    if "SLURM_STEP_NODELIST" in said and int(said.get("SLURM_STEP_NUM_TASKS", said.get("SLURM_NTASKS", "1"))) > 1:
        return "Slurm"
    if _on_tpu_of_many_hosts():
        return "Cloud TPU"
    if "KUBERNETES_SERVICE_HOST" in said and "JOB_COMPLETION_INDEX" in said:
        return "Kubernetes"
    return None


def _on_tpu_of_many_hosts() -> bool:
    """Whether this host has TPU chips and may be one of several. Without variables, only a metadata server knows."""
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm:
        return False
    if int(os.environ.get("MEGASCALE_NUM_SLICES", "1")) > 1 or "TPU_PROCESS_ADDRESSES_PATH" in os.environ:
        return True
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    return "TPU_SKIP_MDS_QUERY" not in os.environ if hosts is None else "," in hosts


def _ask_jax(
    launcher: str, coordinator: str | None, count: int | None, process: int | None, timeout: int
) -> tuple[str | None, int | None, int | None]:
    from jax._src.clusters import ClusterEnv

    method = _NAMES_IN_JAX.get(launcher)
    found = ClusterEnv.auto_detect_unset_distributed_params(coordinator, count, process, [], method, timeout)
    return found[0], found[1], found[2]


def _local_devices(launcher: str | None, num_processes: int) -> list[int] | None:
    """As JAX has it, one device for each of several processes on a host; a process alone there takes all."""
    said = os.environ
    if launcher == "Slurm" and said.get("SLURM_STEP_NUM_NODES") != str(num_processes):
        return [int(said["SLURM_LOCALID"])]
    if launcher == "Open MPI" and said.get("OMPI_COMM_WORLD_LOCAL_SIZE") != "1":
        return [int(said["OMPI_COMM_WORLD_LOCAL_RANK"])]
    return None
