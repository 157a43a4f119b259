"""RoIAlign in windows: each region is pooled from the part of its map that it covers, one after the other.

On a CPU the products with whole rows and columns of the maps, which suit accelerators, are mostly with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.detection._sampling import in_cells, sampling_matrix
from attnjax.layers import at_least_float32

SIDES = (16, 32, 64)
"""Sides of the windows in cells; regions that do not fit into the last are pooled from the whole map."""


class _Pass(NamedTuple):
    """The regions pooled in windows of one size: `order[start:stop]`.

    Attributes:
      rows, columns: sampling matrices within the windows of all regions, (n, ph, h) and (n, pw, w).
      corners: image, row, column and channel at which the windows start, int32 (n, 4).
      start, stop: which regions are in this pass.
    """

    rows: jax.Array
    columns: jax.Array
    corners: jax.Array
    start: jax.Array
    stop: jax.Array


def pool_windows(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    levels: jax.Array,
    output_size: tuple[int, int],
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> jax.Array:
    """Pools regions (b, k, 4) of the maps `levels` (b, k), see `multiscale_roi_align`; (b, k, ph, pw, c)."""
    shape = (*boxes.shape[:2], *output_size, features[0].shape[-1])
    atlas, tops = _atlas(features)
    sizes = np.array([of_level.shape[1:3] for of_level in features])
    boxes, levels = boxes.reshape(-1, 4), levels.reshape(-1)
    images = jnp.repeat(jnp.arange(shape[0], dtype=jnp.int32), shape[1])
    start, side = in_cells(boxes, jnp.asarray(scales, at_least_float32(boxes.dtype))[levels], aligned)
    cells = jnp.asarray(sizes, jnp.int32)[levels]  # (n, 2): height, width
    ends = jnp.stack([start, start + side])[..., ::-1]
    first, last = jnp.floor(ends.min(0)).astype(jnp.int32), jnp.ceil(ends.max(0)).astype(jnp.int32) + 1
    needed = jnp.minimum(last - first + 1, cells).max(1)
    largest = sizes.max(0)
    windows = [np.minimum(side, largest) for side in SIDES if side < largest.max()] + [largest]
    kind = sum(((needed > int(window.max())).astype(jnp.int32) for window in windows[:-1]), jnp.zeros_like(needed))
    order, stops = jnp.argsort(kind), jnp.cumsum(jnp.bincount(kind, length=len(windows)))
    passes = []
    for number, window in enumerate(windows):
        corner = jnp.clip(first, 0, jnp.maximum(cells - jnp.asarray(window, jnp.int32)[None], 0))
        rows, columns = (
            sampling_matrix(
                start[:, 1 - axis],
                side[:, 1 - axis],
                output_size[axis],
                cells[:, axis],
                sampling_ratio,
                corner[:, axis],
                int(window[axis]),
            )
            for axis in (0, 1)
        )
        top = corner[:, 0] + jnp.asarray(tops, jnp.int32)[levels]
        corners = jnp.stack([images, top, corner[:, 1], jnp.zeros_like(top)], axis=1)
        begin = stops[number - 1] if number else jnp.zeros_like(stops[0])
        of_type = (rows.astype(atlas.dtype), columns.astype(atlas.dtype))
        passes.append(_Pass(*of_type, corners, begin, stops[number]))
    return _pool(atlas.shape, atlas, order, passes).reshape(shape)


def _atlas(features: Sequence[jax.Array]) -> tuple[jax.Array, list[int]]:
    """All maps below one another, the largest last, and the first row of each."""
    width = max(of_level.shape[2] for of_level in features)
    order = sorted(range(len(features)), key=lambda level: features[level].shape[1])
    tops, top = [0] * len(features), 0
    for level in order:
        tops[level], top = top, top + features[level].shape[1]
    padded = [
        jnp.pad(features[level], ((0, 0), (0, 0), (0, width - features[level].shape[2]), (0, 0))) for level in order
    ]
    return jnp.concatenate(padded, axis=1), tops


_exact = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(shape: tuple[int, ...], atlas: jax.Array, order: jax.Array, passes: Sequence[_Pass]) -> jax.Array:
    (count, ph, _), pw = passes[0].rows.shape, passes[0].columns.shape[1]
    pooled = jnp.zeros((count, ph, pw, atlas.shape[-1]), atlas.dtype)
    for each in passes:

        def pool(number: jax.Array, pooled: jax.Array, each: _Pass = each) -> jax.Array:
            region = order[number]
            window = _window(atlas, each, region)
            product = _exact("ph,hwc->pwc", each.rows[region], window)
            return pooled.at[region].set(_exact("pwc,qw->pqc", product, each.columns[region]))

        pooled = jax.lax.fori_loop(each.start, each.stop, pool, pooled)
    return pooled


def _window(atlas: jax.Array, each: _Pass, region: jax.Array) -> jax.Array:
    size = (1, each.rows.shape[-1], each.columns.shape[-1], atlas.shape[-1])
    return jax.lax.dynamic_slice(atlas, tuple(each.corners[region]), size)[0]


def _forward(shape: tuple[int, ...], atlas: jax.Array, order: jax.Array, passes: Sequence[_Pass]) -> tuple[Any, Any]:
    return _pool(shape, atlas, order, passes), (order, passes)


def _backward(
    shape: tuple[int, ...], saved: tuple[jax.Array, Sequence[_Pass]], cotangent: jax.Array
) -> tuple[Any, ...]:
    order, passes = saved
    gradient = jnp.zeros(shape, at_least_float32(cotangent.dtype))
    for each in passes:

        def add(number: jax.Array, gradient: jax.Array, each: _Pass = each) -> jax.Array:
            region = order[number]
            product = _exact("pqc,qw->pwc", cotangent[region], each.columns[region])
            spread = _exact("pwc,ph->hwc", product, each.rows[region])
            window = _window(gradient, each, region) + spread.astype(gradient.dtype)
            return jax.lax.dynamic_update_slice(gradient, window[None], tuple(each.corners[region]))

        gradient = jax.lax.fori_loop(each.start, each.stop, add, gradient)
    return gradient.astype(cotangent.dtype), None, None


_pool.defvjp(_forward, _backward)
