"""Training steps compiled for the devices of all processes, by `jit` over a mesh or by `pmap`."""

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
"""Axis name of `pmap_step`, for batch norms with statistics over all devices."""


class ParallelStep(Protocol):
    """A compiled training step, with conversions of states and sums to and from its array layout.

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
        """Converts arrays sharded by the layout, whose buffers are donated, to the layout of the step."""
        ...

    def __call__(self, state: Any, sums: Any, batch: Mapping[str, np.ndarray], seed: Any) -> tuple[Any, Any]:
        """Takes a step, donating state and sums.

        Args:
          state, sums: packed.
          batch: the rows of this process.
          seed: of the run, uint32 (), packed: `step.pack(layout.put(np.uint32(seed)))`.
        """
        ...

    def unpack(self, tree: Any) -> Any:
        """Converts back to arrays sharded by the layout."""
        ...


@dataclasses.dataclass(frozen=True)
class _JitStep:
    """One program over the mesh, which sees the whole batch. See `jit_step`."""

    program: Callable[..., Any]
    layout: Layout

    def pack(self, tree: Any) -> Any:
        return tree

    def __call__(self, state: Any, sums: Any, batch: Mapping[str, np.ndarray], seed: Any) -> tuple[Any, Any]:
        return self.program(state, sums, self.layout.put_batch(batch), seed)

    def unpack(self, tree: Any) -> Any:
        return tree


def jit_step(step: TrainStep, layout: Layout, state: TrainState) -> ParallelStep:
    """Compiles a training step with `jax.jit` over the devices of a layout.

    If the layout has shards, parameters and the optimizer's state stay divided among them, and parameters are gathered
    where they are used (FSDP).

    Args:
      step: see `make_train_step`; without `axis_name`.
      layout: devices and shardings.
      state: the state, or its shapes and dtypes.

    Returns:
      The compiled step.

    Raises:
      ValueError: the step has an `axis_name`.

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
      >>> seed = layout.put(np.uint32(0))
      >>> state, sums = compiled(layout.put_state(state), layout.put(sums), batch, seed)
      >>> sums["count"].item()
      4
    """
    if step.axis_name is not None:
        raise ValueError(f"axis_name={step.axis_name!r} must be None: under jit a batch is whole")
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
    """The same program on each device, with a copy of the state and part of the batch. See `pmap_step`."""

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

    def __call__(self, state: Any, sums: Any, batch: Mapping[str, np.ndarray], seed: Any) -> tuple[Any, Any]:
        local = len(self.layout.mesh.local_devices)

        def put(rows: np.ndarray) -> jax.Array:
            rows = rows.reshape(local, len(rows) // local, *rows.shape[1:])
            return jax.make_array_from_process_local_data(self.stacked, rows)

        return self.program(state, sums, jax.tree.map(put, dict(batch)), seed)

    def unpack(self, tree: Any) -> Any:
        """Returns one of the identical copies."""

        def unstack(leaf: jax.Array) -> jax.Array:
            copies = [shard.data[0] for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape[1:], self.layout.replicated, copies)

        return jax.tree.map(unstack, tree)


def pmap_step(step: TrainStep, layout: Layout) -> ParallelStep:
    """Compiles a training step with `jax.pmap` over the devices of a layout without shards.

    It takes the same steps as `jit_step`, except for the random numbers of dropout. Batch norms see the images of their
    device, or with an `axis_name` of `PMAP_AXIS` those of all devices.

    Args:
      step: see `make_train_step`; its `axis_name` is replaced.
      layout: devices and shardings.

    Returns:
      The compiled step.

    Raises:
      ValueError: the layout has shards.

    Example:
      >>> import jax, numpy as np, optax, attnjax
      >>> from attnjax.losses import CrossEntropy
      >>> from attnjax.training import Layout, TrainState, make_train_step, pmap_step
      >>> model = attnjax.create_model("resnet20_cifar", num_classes=10, stage_sizes=(1, 1, 1))
      >>> step = make_train_step(model, optax.sgd(0.1), CrossEntropy())
      >>> state = TrainState.create(attnjax.init(model, jax.random.key(0), (1, 8, 8, 3)), optax.sgd(0.1))
      >>> layout = Layout.create(jax.devices()[:1])
      >>> batch = {"image": np.zeros((4, 8, 8, 3), np.float32), "label": np.arange(4)}
      >>> compiled, sums = pmap_step(step, layout), step.init(state, batch, jax.random.key(0))
      >>> state, sums, seed = (compiled.pack(layout.put(tree)) for tree in (state, sums, np.uint32(0)))
      >>> state, sums = compiled(state, sums, batch, seed)
      >>> compiled.unpack(sums)["count"].item()
      4
    """
    if layout.shards > 1:
        raise ValueError(f"shards={layout.shards} must be 1: pmap keeps all parameters on every device")
    devices = layout.mesh.devices.flatten()
    stacked = NamedSharding(Mesh(devices, (PMAP_AXIS,)), PartitionSpec(PMAP_AXIS))
    program = jax.pmap(
        seeded(dataclasses.replace(step, axis_name=PMAP_AXIS)),
        axis_name=PMAP_AXIS,
        devices=devices.tolist(),
        donate_argnums=(0, 1),
    )
    return _PmapStep(program, layout, stacked)


def seeded(step: TrainStep) -> Callable[..., Any]:
    """Replaces the key of a step by a seed, uint32 (), which processes can pass without putting it on a device.

    Example:
      >>> from attnjax.training import seeded
      >>> def step(state, sums, batch, key):
      ...     return key.dtype
      >>> import numpy as np
      >>> seeded(step)(None, None, None, np.uint32(3))
      key<fry>
    """

    def train_step(state: Any, sums: Any, batch: Any, seed: Any) -> Any:
        return step(state, sums, batch, jax.random.key(seed))

    return train_step
