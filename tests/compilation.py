"""Tests compile much and compute little: their processes compile without optimisation."""

from __future__ import annotations


def quickly(devices: int) -> dict[str, str]:
    """Environment of a process on virtual CPU devices whose compilations take a third of the usual time."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_cpu_use_fusion_emitters=false"
    return {"XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
