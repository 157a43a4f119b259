"""Sharding of arrays over the devices of all processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_SMALLEST_SHARDED = 2**14
"""Arrays with fewer values are replicated: gathering them would cost more than sharding saves."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sharding of arrays over a mesh with the axes `data` and `shard`.

    Batches are divided among all devices, parameters and the optimizer's state along `shard` only (FSDP).

    Example:
      >>> import jax, numpy as np
      >>> from attnjax.training import Layout
      >>> layout = Layout.create(jax.devices()[:1])
      >>> layout.put_batch({"image": np.zeros((4, 8, 8, 3), np.uint8)})["image"].sharding == layout.split
      True
    """

    mesh: Mesh

    @classmethod
    def create(cls, devices: Sequence[jax.Device] | None = None, shards: int = 1) -> Layout:
        """Creates a layout on the given devices, or on those of all processes.

        Args:
          devices: devices of the mesh; a batch is divided among all of them.
          shards: number of devices among which parameters and the optimizer's state are divided; 1 replicates them.

        Raises:
          ValueError: `shards` does not divide the number of devices.
        """
        # Ordered by process, so that each process reads the rows of its own devices.
        ordered = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        if shards < 1 or len(ordered) % shards:
            raise ValueError(f"shards={shards} does not divide the {len(ordered)} devices")
        mesh = Mesh(np.asarray(ordered).reshape(-1, shards), ("data", "shard"), axis_types=(AxisType.Auto,) * 2)
        return cls(mesh)

    @property
    def num_devices(self) -> int:
        """Number of devices of all processes."""
        return self.mesh.size

    @property
    def shards(self) -> int:
        """Number of devices among which parameters are divided."""
        return self.mesh.shape["shard"]

    def round_up(self, batch_size: int) -> int:
        """Rounds a batch size up to a multiple of the number of devices."""
        return -(-batch_size // self.num_devices) * self.num_devices

    @property
    def replicated(self) -> NamedSharding:
        """Replicated on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """The first axis divided among all devices."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "shard")))

    def shardings(self, tree: Any) -> Any:
        """Shardings of a state: large arrays are divided along their longest axis divisible by `shards`."""
        return jax.tree.map(self._sharding, tree)

    def _sharding(self, leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % self.shards == 0]
        if self.shards == 1 or leaf.size < _SMALLEST_SHARDED or not divisible:
            return self.replicated
        longest = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, "shard"))

    def abstract(self, tree: Any) -> Any:
        """Shapes, dtypes and shardings of a state."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding(leaf)), tree
        )

    def put_state(self, tree: Any) -> Any:
        """Puts a tree, which every process holds, on the devices, large arrays divided along `shard`."""
        return jax.tree.map(_put, tree, self.shardings(tree))

    def put(self, tree: Any) -> Any:
        """Replicates a tree, which every process holds, on every device."""
        return jax.tree.map(lambda leaf: _put(leaf, self.replicated), tree)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Divides a batch among the devices; every process passes its rows."""
        return {name: jax.make_array_from_process_local_data(self.split, rows) for name, rows in batch.items()}


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
