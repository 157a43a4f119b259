"""A training step compiled for the devices of all processes: by `jit` over a mesh, or by `pmap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnjax.training._layout import Layout
from attnjax.training._state import TrainState
from attnjax.training._step import TrainStep

PMAP_AXIS = "device"
"""Name of the axis of `pmap_step`, for batch norms that take their statistics over all devices."""


class ParallelStep(Protocol):
    """A compiled training step, and the way into and out of the form in which it keeps trees.

    Attributes:
      program: the compiled function of packed state, packed sums, batch on the devices and seed.

    Example:
      >>> from attnjax.training import ParallelStep
      >>> def train(step: ParallelStep, state, sums, batches, seed):
      ...     state, sums = step.pack(state), step.pack(sums)
      ...     for batch in batches:
      ...         state, sums = step(state, sums, batch, seed)
      ...     return step.unpack(state), step.unpack(sums)
    """

    @property
    def program(self) -> Any: ...

    def pack(self, tree: Any) -> Any:
        """From arrays that lie as the layout says, which are used up, to the form of the step."""
        ...

    def __call__(self, state: Any, sums: Any, batch: Mapping[str, np.ndarray], seed: int) -> tuple[Any, Any]:
        """One step; state and sums are used up. Every process gives its rows of the batch."""
        ...

    def unpack(self, tree: Any) -> Any:
        """Back to arrays that lie as the layout says."""
        ...


@dataclasses.dataclass(frozen=True)
class _JitStep:
    """One program over the mesh, to which a batch is whole. See `jit_step`."""

    program: Callable[..., Any]
    layout: Layout

    def pack(self, tree: Any) -> Any:
        return tree

    def __call__(self, state: Any, sums: Any, batch: Mapping[str, np.ndarray], seed: int) -> tuple[Any, Any]:
        return self.program(state, sums, self.layout.put_batch(batch), np.uint32(seed))

    def unpack(self, tree: Any) -> Any:
        return tree


def jit_step(step: TrainStep, layout: Layout, state: TrainState) -> ParallelStep:
    """Compiles a training step by `jax.jit`, over the devices of a layout.

    Where the layout has shards, parameters and the optimizer's state stay divided among them, and are gathered where
    they are used (FSDP).

    Args:
      step: see `make_train_step`; without `axis_name`.
      layout: where arrays lie.
      state: shapes and types of the state.

    Example:
      >>> import jax, numpy as np, optax, attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> from attnjax.training import Layout, TrainState, jit_step, make_train_step
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10, stage_sizes=(1, 1, 1))
      >>> step = make_train_step(model, optax.sgd(0.1), CrossEntropy())
      >>> state = TrainState.create(attnjax.init(model, jax.random.key(0), (1, 8, 8, 3)), optax.sgd(0.1))
      >>> layout = Layout.create(jax.devices()[:1])
      >>> batch = {"image": np.zeros((4, 8, 8, 3), np.float32), "label": np.arange(4)}
      >>> compiled, sums = jit_step(step, layout, state), step.init(state, batch, jax.random.key(0))
      >>> state, sums = compiled(layout.put_state(state), layout.put(sums), batch, seed=0)
      >>> sums["count"].item()
      4
    """
    shardings, replicated = layout.shardings(state), layout.replicated
    if layout.shards > 1:
        step = dataclasses.replace(step, gather=partial(jax.lax.with_sharding_constraint, shardings=replicated))
    program = jax.jit(
        seeded(step),
        in_shardings=(shardings, replicated, layout.split, replicated),
        out_shardings=(shardings, replicated),
        donate_argnums=(0, 1),
    )
    return _JitStep(program, layout)


@dataclasses.dataclass(frozen=True)
class _PmapStep:
    """The same program on each device, with its own copy of the state and its rows of the batch. See `pmap_step`."""

    program: Callable[..., Any]
    layout: Layout
    stacked: NamedSharding

    def pack(self, tree: Any) -> Any:
        """Stacks the copies of all devices along a new first axis."""

        def stack(leaf: jax.Array) -> jax.Array:
            copies = [shard.data[None] for shard in leaf.addressable_shards]
            shape = (self.layout.num_devices, *leaf.shape)
            leaf.delete()
            return jax.make_array_from_single_device_arrays(shape, self.stacked, copies)

        return jax.tree.map(stack, tree)

    def __call__(self, state: Any, sums: Any, batch: Mapping[str, np.ndarray], seed: int) -> tuple[Any, Any]:
        local = len(self.layout.mesh.local_devices)

        def put(rows: np.ndarray) -> jax.Array:
            rows = rows.reshape(local, len(rows) // local, *rows.shape[1:])
            return jax.make_array_from_process_local_data(self.stacked, rows)

        return self.program(state, sums, jax.tree.map(put, dict(batch)), np.uint32(seed))

    def unpack(self, tree: Any) -> Any:
        """One copy of many: they are all the same."""

        def unstack(leaf: jax.Array) -> jax.Array:
            copies = [shard.data[0] for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape[1:], self.layout.replicated, copies)

        return jax.tree.map(unstack, tree)


def pmap_step(step: TrainStep, layout: Layout) -> ParallelStep:
    """Compiles a training step by `jax.pmap`, over the devices of a layout without shards.

    It takes the same steps as `jit_step`, but for dropout's random numbers. A batch norm sees the images of its device,
    or with the `axis_name` `PMAP_AXIS` those of all.

    Args:
      step: see `make_train_step`; its `axis_name` is replaced.
      layout: where arrays lie.

    Example:
      >>> import attnjax.training
      >>> attnjax.training.PMAP_AXIS
      'device'
    """
    devices = layout.mesh.devices.flatten()
    stacked = NamedSharding(Mesh(devices, (PMAP_AXIS,)), PartitionSpec(PMAP_AXIS))
    program = jax.pmap(
        seeded(dataclasses.replace(step, axis_name=PMAP_AXIS)),
        axis_name=PMAP_AXIS,
        devices=devices.tolist(),
        in_axes=(0, 0, 0, None),
        donate_argnums=(0, 1),
    )
    return _PmapStep(program, layout, stacked)


def seeded(step: TrainStep) -> Callable[..., Any]:
    """The step with a seed, uint32 (), in place of its key: every process can give it without a device.

    Example:
      >>> from attnjax.training import seeded
      >>> def step(state, sums, batch, key):
      ...     return key.dtype
      >>> import numpy as np
      >>> seeded(step)(None, None, None, np.uint32(3))
      key<fry>
    """

    def seeded_step(state: Any, sums: Any, batch: Any, seed: Any) -> Any:
        return step(state, sums, batch, jax.random.key(seed))

    return seeded_step
