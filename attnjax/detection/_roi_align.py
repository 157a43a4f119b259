"""RoIAlign as products with sampling matrices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.detection._roi_windows import pool_windows
from attnjax.detection._sampling import in_cells, sampling_matrix

CHUNK = 64
"""Regions of an image that are pooled at once: bounds the memory of the intermediate products."""


def roi_align(
    features: jax.Array,
    boxes: jax.Array,
    output_size: tuple[int, int],
    *,
    scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> jax.Array:
    """Pools regions of feature maps: means of bilinear samples in the bins of each region.

    Bilinear sampling is separable: out = R f C^T for each region, with R (ph, h) and C (pw, w) the mean weights of rows
    and columns in the samples of a bin.

    Args:
      features: floating (b, h, w, c).
      boxes: x1, y1, x2, y2 in pixels of the image, floating (b, k, 4).
      output_size: ph, pw, the bins of a region.
      scale: pixels of the map per pixel of the image.
      sampling_ratio: samples of a bin along each axis. 0 takes ceil(side / bins) of them, by region (mmdetection; its
        number is bounded by 4096); torchvision's detectors take 2.
      aligned: whether pixels are half a pixel from the corners (mmdetection), so that a region without area gives 0
        where `sampling_ratio` is 0. If not, the first pixel is at 0 and sides are at least 1 (torchvision's detectors).

    Returns:
      (b, k, ph, pw, c), differentiable in the features. The boxes get no gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import roi_align
      >>> ramp = jnp.broadcast_to(jnp.arange(8.0)[:, None, None], (1, 8, 8, 1))
      >>> roi_align(ramp, jnp.array([[[2.0, 2.0, 6.0, 6.0]]]), (2, 2))[0, 0, :, :, 0].tolist()
      [[2.5, 2.5], [4.5, 4.5]]

    References:
      He et al., "Mask R-CNN", ICCV 2017.

    Notes:
      A sample more than a pixel outside the map counts as 0 in the mean, as in the released operators. On a single CPU
      device regions are pooled one after the other from windows of the map, which has no forward-mode derivative;
      elsewhere by products with whole maps.
    """
    levels = jnp.zeros(boxes.shape[:2], jnp.int32)
    return _pool([features], boxes, levels, output_size, [scale], sampling_ratio, aligned)


def multiscale_roi_align(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    output_size: tuple[int, int],
    *,
    strides: Sequence[int],
    sampling_ratio: int = 0,
    aligned: bool = True,
    canonical_size: float = 224,
    canonical_level: int = 4,
    epsilon: Literal["inside", "outside"] = "inside",
) -> jax.Array:
    """`roi_align` of each region on the map of a pyramid that fits its size, see `map_levels`.

    Args:
      features: floating (b, h, w, c), by decreasing resolution.
      boxes: in pixels of the image, floating (b, k, 4).
      output_size: ph, pw.
      strides: stride of each map, powers of two.
      sampling_ratio, aligned: see `roi_align`.
      canonical_size, canonical_level, epsilon: see `map_levels`.

    Returns:
      (b, k, ph, pw, c).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import multiscale_roi_align
      >>> maps = [jnp.zeros((1, 64, 64, 1)), jnp.ones((1, 32, 32, 1))]
      >>> boxes = jnp.array([[[0.0, 0.0, 40.0, 40.0], [0.0, 0.0, 120.0, 120.0]]])
      >>> multiscale_roi_align(maps, boxes, (1, 1), strides=(4, 8)).ravel().tolist()
      [0.0, 1.0]

    References:
      Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017.
    """
    if len(features) != len(strides):
        raise ValueError(f"strides={tuple(strides)} must be one for each of {len(features)} features")
    levels = map_levels(boxes, strides, canonical_size=canonical_size, canonical_level=canonical_level, epsilon=epsilon)
    scales = [1 / stride for stride in strides]
    return _pool(features, boxes, levels, output_size, scales, sampling_ratio, aligned)


def map_levels(
    boxes: jax.Array,
    strides: Sequence[int],
    *,
    canonical_size: float = 224,
    canonical_level: int = 4,
    epsilon: Literal["inside", "outside"] = "inside",
) -> jax.Array:
    """The map of a pyramid that each region is pooled from.

    Level canonical_level + log2(sqrt(area) / canonical_size), rounded down and clamped, of maps of stride 2^level.

    Args:
      boxes: floating (..., 4).
      strides: strides of the maps, powers of two.
      canonical_size: square root of the area of a region of level `canonical_level`.
      canonical_level: the level it has.
      epsilon: whether 1e-6 is added inside the logarithm (mmdetection) or outside (torchvision).

    Returns:
      int32 (...), index into the maps.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import map_levels
      >>> map_levels(jnp.array([[0.0, 0.0, 50.0, 50.0], [0.0, 0.0, 300.0, 300.0]]), (4, 8, 16, 32)).tolist()
      [0, 2]
    """
    check_choice("epsilon", epsilon, ("inside", "outside"))
    size = jnp.sqrt(jnp.maximum(jnp.prod(boxes[..., 2:] - boxes[..., :2], axis=-1), 0))
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    if epsilon == "inside":
        base = canonical_size * 2.0 ** (first - canonical_level)
        level = jnp.floor(jnp.log2(size / base + 1e-6))
    else:
        level = jnp.floor(canonical_level + jnp.log2(size / canonical_size) + 1e-6) - first
    return jnp.clip(level, 0, last - first).astype(jnp.int32)


def sampling_matrices(
    shape: tuple[int, ...],
    boxes: jax.Array,
    output_size: tuple[int, int],
    scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[jax.Array, jax.Array]:
    """Sampling matrices of rows, (b, k, ph, h), and columns, (b, k, pw, w)."""
    start, side = in_cells(boxes, scale, aligned)
    columns, rows = (
        sampling_matrix(start[..., axis], side[..., axis], bins, cells, sampling_ratio, 0, cells)
        for axis, bins, cells in ((0, output_size[1], shape[2]), (1, output_size[0], shape[1]))
    )
    return rows, columns


def _pool(features: Sequence[jax.Array], boxes: jax.Array, levels: jax.Array, *options: Any) -> jax.Array:
    """Pools regions (b, k, 4) of the maps `levels` (b, k): in windows on a single CPU device, else from whole maps.

    Windows are pooled in one loop over the regions of all images, which XLA does not divide among devices.
    """
    if jax.device_count() > 1:
        return pool_whole(features, boxes, levels, *options)
    return jax.lax.platform_dependent(
        list(features),
        boxes,
        levels,
        cpu=lambda *arrays: pool_windows(*arrays, *options),
        default=lambda *arrays: pool_whole(*arrays, *options),
    )


def pool_whole(
    features: Sequence[jax.Array],
    boxes: jax.Array,
    levels: jax.Array,
    output_size: tuple[int, int],
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> jax.Array:
    """The sum over maps of R f C^T, with R = 0 on the maps that are not a region's, for chunks of regions."""
    rows, columns = [], []
    for level, (of_level, scale) in enumerate(zip(features, scales, strict=True)):
        matrices = sampling_matrices(of_level.shape, boxes, output_size, scale, sampling_ratio, aligned)
        rows.append(jnp.where((levels == level)[..., None, None], matrices[0], 0))
        columns.append(matrices[1])

    def of_chunk(features: Sequence[jax.Array], rows: Sequence[jax.Array], columns: Sequence[jax.Array]) -> jax.Array:
        total = None
        for of_map, r, c in zip(features, rows, columns, strict=True):
            r, c = r.astype(of_map.dtype), c.astype(of_map.dtype)
            precision = None if of_map.dtype.itemsize < 4 else jax.lax.Precision.HIGHEST
            product = jnp.einsum("bkph,bhwc->bkpwc", r, of_map, precision=precision)
            product = jnp.einsum("bkpwc,bkqw->bkpqc", product, c, precision=precision)
            total = product if total is None else total + product
        assert total is not None
        return total

    count = rows[0].shape[1]
    if count <= CHUNK:
        return of_chunk(features, rows, columns)
    padded = -count % CHUNK

    def chunks(matrices: jax.Array) -> jax.Array:
        matrices = jnp.pad(matrices, ((0, 0), (0, padded), (0, 0), (0, 0)))
        parts = matrices.reshape(len(matrices), -1, CHUNK, *matrices.shape[2:])
        return jnp.moveaxis(parts, 1, 0)

    body = jax.checkpoint(partial(of_chunk, features))
    pooled = jax.lax.map(lambda pair: body(*pair), jax.tree.map(chunks, (list(rows), list(columns))))
    return jnp.moveaxis(pooled, 0, 1).reshape(len(rows[0]), count + padded, *pooled.shape[3:])[:, :count]
