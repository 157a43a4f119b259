"""Where arrays lie on the devices of all processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config import Config
from train.config.errors import UserError

_SMALLEST_SHARDED = 2**14
"""Arrays with fewer values lie on every device: gathering them would cost more than it saves."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where arrays lie on a mesh with the axes `data` and `shard`.

    A batch is divided among all devices. Parameters and the optimiser's state are divided along `shard` alone.
    """

    mesh: Mesh

    @classmethod
    def of(cls, config: Config, devices: Sequence[jax.Device] | None = None) -> Layout:
        """A layout on the devices of all processes, or on those given.

        Raises:
          UserError: the batch or the parameters cannot be divided among the devices.
        """
        devices = _in_order(devices or jax.devices())
        n, parts, shards = len(devices), config.parallel.accumulate, config.parallel.shard_parameters
        if config.data.batch_size % (n * parts):
            among = f"{n} devices" + (f" in {parts} parts" if parts > 1 else "")
            near = max(1, config.data.batch_size // (n * parts)) * n * parts
            raise UserError(f"data.batch_size={config.data.batch_size} cannot be divided among {among}: take {near}")
        if n % shards:
            raise UserError(f"parallel.shard_parameters={shards} does not divide the {n} devices")
        images = config.data.batch_size // (n * parts)
        if (config.data.mixup or config.data.cutmix) and images % 2:
            raise UserError(f"data.mixup and data.cutmix mix neighbours: {images} images on each device must be even")
        return cls(_mesh(devices, shards))

    @classmethod
    def of_all_devices(cls) -> Layout:
        """A batch divided among the devices of all processes, all else on every device."""
        return cls(_mesh(_in_order(jax.devices()), 1))

    @classmethod
    def of_one_device(cls) -> Layout:
        """Everything on one device of this process."""
        return cls(_mesh(jax.local_devices()[:1], 1))

    @property
    def num_devices(self) -> int:
        """Devices of all processes."""
        return self.mesh.size

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
        shards = self.mesh.shape["shard"]
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % shards == 0]
        if shards == 1 or leaf.size < _SMALLEST_SHARDED or not divisible:
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
        """Spreads a batch over the devices: every process gives its rows."""
        return {name: jax.make_array_from_process_local_data(self.split, rows) for name, rows in batch.items()}


def _in_order(devices: Sequence[jax.Device]) -> list[jax.Device]:
    """Process by process, so that the rows that a process reads are those of its own devices."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def _mesh(devices: Sequence[jax.Device], shards: int) -> Mesh:
    return Mesh(np.asarray(devices).reshape(-1, shards), ("data", "shard"), axis_types=(AxisType.Auto,) * 2)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
