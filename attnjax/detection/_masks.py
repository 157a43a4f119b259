"""Masks of instances: their boxes, their targets in regions, and pasting them into the image."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnjax.detection._roi_align import sampling_matrices
from attnjax.layers import at_least_float32

CHUNK = 16
"""Masks that are cut out at once: bounds the memory of their copies."""
EXACT = jax.lax.Precision.HIGHEST
"""Accelerators round the factors of float32 products by default, too coarsely to compare them with a half."""
ROUNDING = 1e-5
"""A bin that a mask covers by half counts as covered, however sums are rounded."""


def masks_to_boxes(masks: jax.Array) -> jax.Array:
    """The smallest boxes around masks; x2 and y2 are the indices of the last pixels, as in torchvision.

    Args:
      masks: bool or 0 and 1, (..., h, w).

    Returns:
      float32 (..., 4); 0, 0, 0, 0 for an empty mask.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import masks_to_boxes
      >>> masks_to_boxes(jnp.zeros((4, 6)).at[1:3, 2].set(1)).tolist()
      [2.0, 1.0, 2.0, 2.0]
    """
    masks = masks.astype(bool)
    ends = []
    for along in (-2, -1):
        cells = masks.any(along)
        last = cells.shape[-1] - 1 - cells[..., ::-1].argmax(-1)
        ends += [cells.argmax(-1), jnp.where(cells.any(-1), last, 0)]
    x1, x2, y1, y2 = ends
    return jnp.stack([x1, y1, x2, y2], axis=-1).astype(jnp.float32)


def mask_targets(
    masks: jax.Array,
    matches: jax.Array,
    boxes: jax.Array,
    output_size: tuple[int, int],
    *,
    scale: float = 1.0,
    aligned: bool = True,
    binary: bool = True,
) -> jax.Array:
    """Cuts the ground-truth masks of regions out, as targets of a mask head.

    Args:
      masks: 0 and 1 (b, g, h, w).
      matches: the mask of each region, integers (b, k).
      boxes: the regions, in pixels of the image, floating (b, k, 4).
      output_size: height and width of the targets.
      scale: pixels of the masks per pixel of the image; below 1 to keep masks at a lower resolution.
      aligned: see `roi_align`.
      binary: whether targets are 1 where the mask covers at least half of a bin and 0 elsewhere, or the covered shares.
        mmdetection is aligned and binary, torchvision neither.

    Returns:
      (b, k, *output_size), in the boxes' dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import mask_targets
      >>> masks = jnp.zeros((1, 1, 8, 8)).at[:, :, :4].set(1)
      >>> box = jnp.array([[[0.0, 0.0, 8.0, 8.0]]])
      >>> mask_targets(masks, jnp.zeros((1, 1), int), box, (4, 2))[0, 0].tolist()
      [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]

    References:
      He et al., "Mask R-CNN", ICCV 2017.
    """

    def cut(pair: tuple[jax.Array, jax.Array], masks: jax.Array) -> jax.Array:
        match, box = pair
        shape = (1, *masks.shape[1:], 1)
        rows, columns = sampling_matrices(shape, box[None, None], output_size, scale, 0, aligned)
        return jnp.einsum("ph,hw,qw->pq", rows[0, 0], masks[match].astype(rows.dtype), columns[0, 0], precision=EXACT)

    def of_image(masks: jax.Array, matches: jax.Array, boxes: jax.Array) -> jax.Array:
        return jax.lax.map(lambda pair: cut(pair, masks), (matches, boxes), batch_size=CHUNK)

    shares = jax.vmap(of_image)(masks, matches, boxes)
    return (shares >= 0.5 - ROUNDING).astype(boxes.dtype) if binary else shares.astype(boxes.dtype)


def paste_masks(masks: jax.Array, boxes: jax.Array, size: tuple[int, int], *, rounded: bool = False) -> jax.Array:
    """Resizes the masks of regions to their boxes and puts each into an empty image.

    Args:
      masks: probabilities, floating (k, m, n).
      boxes: in pixels of the image, floating (k, 4).
      size: height and width of the image.
      rounded: whether boxes are enlarged by a cell of the mask and then truncated to integers (torchvision), or masks
        are sampled at the centres of pixels (mmdetection).

    Returns:
      (k, *size): probabilities, 0 outside the boxes; threshold them at 0.5.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import paste_masks
      >>> paste_masks(jnp.ones((1, 2, 2)), jnp.array([[1.0, 0.0, 3.0, 2.0]]), (2, 4))[0].tolist()
      [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    boxes = boxes.astype(at_least_float32(boxes.dtype))
    matrix = _truncated_matrix if rounded else _matrix
    rows, columns = (
        matrix(boxes[..., axis], boxes[..., axis + 2], size[1 - axis], masks.shape[2 - axis]) for axis in (1, 0)
    )
    return jnp.einsum("kym,kmn,kxn->kyx", rows, masks.astype(rows.dtype), columns, precision=EXACT).astype(masks.dtype)


def _matrix(start: jax.Array, end: jax.Array, pixels: int, cells: int) -> jax.Array:
    """Weights of the cells of a mask at the centres of pixels, (k, pixels, cells)."""
    side = jnp.where(end > start, end - start, 1)[:, None]
    at = (jnp.arange(pixels, dtype=start.dtype)[None] + 0.5 - start[:, None]) / side * cells - 0.5
    hat = _hat(at, jnp.arange(cells, dtype=start.dtype))
    return jnp.where((end > start)[:, None, None], hat, 0)


def _truncated_matrix(start: jax.Array, end: jax.Array, pixels: int, cells: int) -> jax.Array:
    """Weights of the cells of a mask, padded by one, in the pixels of an enlarged box of integers."""
    half, centre = (end - start) / 2 * ((cells + 2) / cells), (start + end) / 2
    first, last = jnp.trunc(centre - half)[:, None], jnp.trunc(centre + half)[:, None]
    side = jnp.maximum(last - first + 1, 1)
    place = jnp.arange(pixels, dtype=start.dtype)[None] - first
    at = jnp.clip((place + 0.5) * ((cells + 2) / side) - 0.5, 0, cells + 1)
    hat = _hat(at, jnp.arange(1, cells + 1, dtype=start.dtype))
    return jnp.where(((place >= 0) & (place < side))[..., None], hat, 0)


def _hat(at: jax.Array, cells: jax.Array) -> jax.Array:
    """Bilinear weights of cells at places (k, pixels)."""
    return jnp.maximum(1 - jnp.abs(at[..., None] - cells[None, None]), 0)
