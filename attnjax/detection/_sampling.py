"""The weights of cells in the samples of a region's bins."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from attnjax.layers import at_least_float32

MAX_SAMPLES = 1 << 12
"""Bound on the samples of a bin along an axis, for boxes that are not finite."""


def in_cells(boxes: jax.Array, scale: float | jax.Array, aligned: bool) -> tuple[jax.Array, jax.Array]:
    """Starts and sides, x and y, of boxes (..., 4) in cells of maps, (..., 2) each; `scale` is a number or (...)."""
    boxes = jax.lax.stop_gradient(boxes.astype(at_least_float32(boxes.dtype)))
    boxes = boxes * jnp.broadcast_to(jnp.asarray(scale, boxes.dtype), boxes.shape[:-1])[..., None]
    boxes = boxes - (0.5 if aligned else 0.0)
    start, side = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    return start, side if aligned else jnp.maximum(side, 1)


def sampling_matrix(
    start: jax.Array,
    side: jax.Array,
    bins: int,
    cells: int | jax.Array,
    sampling_ratio: int,
    first_cell: int | jax.Array,
    window: int,
) -> jax.Array:
    """Mean weights of the cells of an axis in the samples of each bin, (..., bins, window).

    Places are rounded as the reference rounds them, however XLA compiles this: a sample on the edge of the map must not
    change sides. The barrier keeps divisions from becoming products with the inverse.

    Args:
      start, side: of regions along the axis, in cells, (...).
      bins: of a region.
      cells: length of the axis, a number or (...).
      sampling_ratio: see `roi_align`.
      first_cell: the cell that the weights begin with, a number or (...).
      window: their number.
    """
    like = partial(jnp.full_like, side)
    width = side / jax.lax.optimization_barrier(like(bins))
    count = like(sampling_ratio)
    if not sampling_ratio:
        count = jnp.clip(jnp.ceil(jnp.nan_to_num(width)), 0, MAX_SAMPLES)
    divisor = jax.lax.optimization_barrier(jnp.maximum(count, 1))[..., None]
    width, count, ones = width[..., None], count[..., None], (1,) * side.ndim
    first = start[..., None] + _times(jnp.arange(bins, dtype=side.dtype).reshape(*ones, bins), width)
    length, origin = (
        jnp.broadcast_to(jnp.asarray(x).astype(side.dtype), side.shape)[..., None] for x in (cells, first_cell)
    )
    cell = origin[..., None] + jnp.arange(window, dtype=side.dtype).reshape(*ones, 1, window)

    def add(index: jax.Array | int, weights: jax.Array) -> jax.Array:
        number = jnp.asarray(index, side.dtype)
        at = first + _times(number + 0.5, width) / divisor
        counts = (at >= -1) & (at <= length) & (number < count)
        near = jnp.clip(at, 0, length - 1)
        hat = jnp.maximum(1 - jnp.abs(near[..., None] - cell), 0)
        return weights + jnp.where(counts, 1 / divisor, 0)[..., None] * hat

    zeros = jnp.zeros((*first.shape, window), side.dtype)
    most = sampling_ratio or count.max(initial=0).astype(jnp.int32)
    return jax.lax.fori_loop(0, most, add, zeros)


def _times(small: jax.Array, x: jax.Array) -> jax.Array:
    """The product with a factor of few significant bits, rounded once, whether or not the additions are fused."""
    bits = jnp.finfo(x.dtype).nmant // 2
    integer = jnp.int32 if x.dtype == jnp.float32 else jnp.int64
    view = jax.lax.bitcast_convert_type
    high = view(view(x, integer) >> bits << bits, x.dtype)
    return small * high + small * (x - high)
