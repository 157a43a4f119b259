"""Where arrays lie: the state on every device, a batch spread over them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh of all local devices, and the two ways to lie on it."""

    mesh: Mesh

    @classmethod
    def of_local_devices(cls, batch_size: int) -> Layout:
        """Raises UserError where the batch cannot be divided among the devices."""
        devices = jax.local_devices()
        if batch_size % len(devices):
            raise UserError(
                f"data.batch_size={batch_size} cannot be divided among {len(devices)} devices: "
                f"take {max(1, batch_size // len(devices)) * len(devices)}"
            )
        return cls(_mesh(devices))

    @classmethod
    def of_dividing_devices(cls, batch_size: int) -> Layout:
        """As many local devices as divide the batch; one device for a batch of 1."""
        devices = jax.local_devices()
        return cls(_mesh(devices[: math.gcd(batch_size, len(devices))]))

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """The first axis divided among the devices."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Spreads a batch over the devices."""
        return {name: jax.device_put(value, self.split) for name, value in batch.items()}

    def put(self, tree: Any) -> Any:
        """Copies a tree to every device."""
        return jax.device_put(tree, self.replicated)


def _mesh(devices: list[jax.Device]) -> Mesh:
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
