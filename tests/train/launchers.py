"""What launchers say to one of two processes of one machine, in its environment."""

from __future__ import annotations

PREFIXES = (
    "JAX_COORDINATOR_",
    "JAX_NUM_",
    "JAX_PROCESS_",
    "SLURM_",
    "OMPI_",
    "KUBERNETES_",
    "JOB_",
    "TPU_",
    "MEGASCALE_",
)
"""How their names begin."""

KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


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
