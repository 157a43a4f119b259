"""Where arrays lie on the devices of all processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_SMALLEST_SHARDED = 2**14
"""Arrays with fewer values lie on every device: gathering them would cost more than it saves."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays lie on a mesh with the axes `data` and `shard`.

    A batch is divided among all devices. Parameters and the optimizer's state are divided along `shard` alone (FSDP).

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
        """A layout on the devices of all processes, or on those given.

        Args:
          devices: of the mesh; their number is that of the parts of a batch.
          shards: devices that share the parameters and the optimizer's state; 1 keeps all of them on every device.

        Raises:
          ValueError: `shards` does not divide the number of devices.
        """
        # Process by process, so that the rows that a process reads are those of its own devices.
        ordered = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        if shards < 1 or len(ordered) % shards:
            raise ValueError(f"shards={shards} does not divide the {len(ordered)} devices")
        mesh = Mesh(np.asarray(ordered).reshape(-1, shards), ("data", "shard"), axis_types=(AxisType.Auto,) * 2)
        return cls(mesh)

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        return self.mesh.size

    @property
    def shards(self) -> int:
        """Devices that share the parameters."""
        return self.mesh.shape["shard"]

    def round_up(self, batch_size: int) -> int:
        """The next larger batch that can be divided among the devices."""
        return -(-batch_size // self.num_devices) * self.num_devices

    @property
    def replicated(self) -> NamedSharding:
        """The same on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def split(self) -> NamedSharding:
        """The first axis divided among all devices."""
        return NamedSharding(self.mesh, PartitionSpec(("data", "shard")))

    def shardings(self, tree: Any) -> Any:
        """Where the leaves of a state lie: large arrays divided along their longest axis that `shard` divides."""
        return jax.tree.map(self._sharding, tree)

    def _sharding(self, leaf: Any) -> NamedSharding:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % self.shards == 0]
        if self.shards == 1 or leaf.size < _SMALLEST_SHARDED or not divisible:
            return self.replicated
        longest = max(divisible, key=lambda axis: leaf.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, "shard"))

    def abstract(self, tree: Any) -> Any:
        """Shapes and types of a state with their shardings."""
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._sharding(leaf)), tree
        )

    def put_state(self, tree: Any) -> Any:
        """Puts a tree that every process holds on the devices, large arrays divided along `shard`."""
        return jax.tree.map(_put, tree, self.shardings(tree))

    def put(self, tree: Any) -> Any:
        """Copies a tree that every process holds to every device."""
        return jax.tree.map(lambda leaf: _put(leaf, self.replicated), tree)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Divides a batch among the devices: every process gives its rows."""
        return {name: jax.make_array_from_process_local_data(self.split, rows) for name, rows in batch.items()}


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
