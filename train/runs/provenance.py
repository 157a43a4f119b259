"""Code version, packages and machine that produced a result."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    packages = ("attnjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | installed(packages)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the given packages, without those that are not installed."""
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def processor() -> str:
    """Core count and model of this machine's processor."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(": ")[1].strip() for line in file if line.startswith("model name")), name)
    return f"{os.cpu_count()} cores of {name}"


def git_commit() -> str | None:
    """Commit of the checkout that holds this file, with `-dirty` if files differ; None outside a checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None


def digest(variables: Mapping[str, Any]) -> str:
    """SHA-256 over the path, dtype, shape and bytes of every variable, in the order of their paths."""
    sha = hashlib.sha256()
    flat: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    for path in sorted(flat):
        value = np.ascontiguousarray(jax.device_get(flat[path]))
        sha.update(f"{path} {value.dtype} {value.shape}\n".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()
