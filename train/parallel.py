"""How a training step is spread over the devices: `jit` over a mesh of all of them, or `pmap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import Config
from train.config.errors import UserError
from train.layout import Layout
from train.runs.record import Run
from train.step import train_step

_AXIS = "device"
"""Name of the `pmap` axis."""


def norm_images(config: Config, num_devices: int) -> int:
    """Images that a batch norm takes its statistics over, as `parallel.batch_norm` says."""
    images, asked = config.data.batch_size // config.parallel.accumulate, config.parallel.batch_norm
    if asked == "global":
        return images
    return images // num_devices if asked == "device" else asked


def norm_options(config: Config, num_devices: int) -> dict[str, Any]:
    """The arguments of batch norm that `parallel.batch_norm` asks for.

    Raises:
      UserError: the images cannot be divided so.
    """
    parallel = config.parallel
    images = config.data.batch_size // parallel.accumulate
    on_device = images // num_devices
    together = norm_images(config, num_devices)
    if parallel.engine == "pmap" and together == images:
        return {"axis_name": _AXIS}
    whole, where = (on_device, "of a device") if parallel.engine == "pmap" else (images, "of a batch")
    if whole % together:
        where += " part" if parallel.accumulate > 1 else ""
        instead = "or parallel.engine='jit'" if parallel.engine == "pmap" else "or 'global'"
        raise UserError(
            f"parallel.batch_norm={together} does not divide the {whole} images {where}: take a divisor, {instead}"
        )
    return {"groups": whole // together}


class Step(Protocol):
    """A compiled training step of one run or of several, and the way into and out of the form that it keeps states in.

    The steps of this module are those of one run.
    """

    def enter(self, trees: Sequence[Any]) -> Any:
        """From one tree for each run, of arrays that lie as the layout says and are used up, to the step's own form."""
        ...

    def __call__(self, state: Any, metrics: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[Any, Any]:
        """One step; state and metrics are used up. Every process gives its rows of each run's batch."""
        ...

    def leave(self, tree: Any) -> list[Any]:
        """Back to a tree for each run, of arrays that lie as the layout says."""
        ...


def training_step(run: Run, layout: Layout) -> Step:
    """The training step of a run, by the engine that its settings name."""
    model = run.model(**norm_options(run.config, layout.num_devices))
    step = partial(train_step, model, run.optimizer(), run.config)
    if run.config.parallel.engine == "pmap":
        return _Pmap(step, layout)
    state, together = layout.shardings(run.abstract_state()), layout.replicated
    gather = partial(jax.lax.with_sharding_constraint, shardings=together)
    options: dict[str, Any] = {} if layout.mesh.shape["shard"] == 1 else {"gather": gather}
    program = jax.jit(
        partial(step, **options),
        in_shardings=(state, together, layout.split),
        out_shardings=(state, together),
        donate_argnums=(0, 1),
    )
    return JitStep(program, layout)


@dataclasses.dataclass(frozen=True)
class JitStep:
    """One program over the mesh; a batch is global.

    Attributes:
      program: of state, metrics and batch, and what else it takes.
      layout: where they lie.
      more: what else it takes.
    """

    program: Callable[..., Any]
    layout: Layout
    more: tuple[Any, ...] = ()

    def enter(self, trees: Sequence[Any]) -> Any:
        (tree,) = trees
        return tree

    def __call__(self, state: Any, metrics: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[Any, Any]:
        (batch,) = batches
        return self.program(state, metrics, self.layout.put_batch(batch), *self.more)

    def leave(self, tree: Any) -> list[Any]:
        return [tree]


class _Pmap:
    """The same program on each device, with its own copy of the state and its rows of the batch."""

    def __init__(self, step: Callable[..., Any], layout: Layout) -> None:
        self._layout = layout
        devices = layout.mesh.devices.flatten()
        self._stacked = NamedSharding(Mesh(devices, (_AXIS,)), PartitionSpec(_AXIS))
        self.program = jax.pmap(
            partial(step, axis_name=_AXIS), axis_name=_AXIS, devices=devices.tolist(), donate_argnums=(0, 1)
        )

    def enter(self, trees: Sequence[Any]) -> Any:
        """Stacks the copies of all devices along a new first axis."""

        def stack(leaf: jax.Array) -> jax.Array:
            copies = [shard.data[None] for shard in leaf.addressable_shards]
            shape = (self._layout.num_devices, *leaf.shape)
            leaf.delete()
            return jax.make_array_from_single_device_arrays(shape, self._stacked, copies)

        (tree,) = trees
        return jax.tree.map(stack, tree)

    def __call__(self, state: Any, metrics: Any, batches: Sequence[Mapping[str, np.ndarray]]) -> tuple[Any, Any]:
        (batch,) = batches
        local = len(self._layout.mesh.local_devices)

        def put(rows: np.ndarray) -> jax.Array:
            return jax.make_array_from_process_local_data(
                self._stacked, rows.reshape(local, len(rows) // local, *rows.shape[1:])
            )

        return self.program(state, metrics, jax.tree.map(put, dict(batch)))

    def leave(self, tree: Any) -> list[Any]:
        """One copy of many: they are all the same."""

        def unstack(leaf: jax.Array) -> jax.Array:
            copies = [shard.data[0] for shard in leaf.addressable_shards]
            return jax.make_array_from_single_device_arrays(leaf.shape[1:], self._layout.replicated, copies)

        return [jax.tree.map(unstack, tree)]
