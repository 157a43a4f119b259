"""Non-maximum suppression with static shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.detection._boxes import box_iou
from attnjax.layers import at_least_float32


def nms(
    boxes: jax.Array,
    scores: jax.Array,
    threshold: float,
    *,
    valid: jax.Array | None = None,
    max_outputs: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Keeps the best of boxes that overlap: a box is dropped if its IoU with a better one that is kept is too high.

    Args:
      boxes: floating (k, 4).
      scores: floating (k,). Of equal scores the lower index is better.
      threshold: boxes are dropped if their IoU is above it, strictly.
      valid: bool (k,): boxes where it is False neither drop others nor are kept; None for all.
      max_outputs: number of indices to return; None for k.

    Returns:
      Indices of the boxes that are kept, int32 (max_outputs,), by decreasing score, and their number, int32 (). Indices
      beyond the number are 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import nms
      >>> boxes = jnp.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [5.0, 5.0, 9.0, 9.0]])
      >>> indices, count = nms(boxes, jnp.array([0.7, 0.9, 0.8]), 0.5)
      >>> indices[:count].tolist()
      [1, 2]

    Notes:
      IoUs are computed in float32 or wider and compared with the threshold as a real number, as torchvision's kernel
      does. The order of suppression is that of the sequential algorithm: all boxes are kept at first, and those that a
      kept, better one overlaps are dropped until nothing changes, which takes as many rounds as the longest suppression
      chain.
    """
    return _nms(boxes, scores, None, threshold, valid, max_outputs)


def batched_nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    threshold: float,
    *,
    valid: jax.Array | None = None,
    max_outputs: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`nms` in which boxes of different classes do not drop each other.

    Args:
      classes: integers (k,), such as classes or feature maps.
      boxes, scores, threshold, valid, max_outputs: see `nms`.

    Returns:
      Indices and their number, see `nms`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import batched_nms
      >>> boxes = jnp.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [0.0, 0.0, 4.0, 4.0]])
      >>> indices, count = batched_nms(boxes, jnp.array([0.7, 0.9, 0.8]), jnp.array([0, 0, 1]), 0.5)
      >>> indices[:count].tolist()
      [1, 2]

    Notes:
      Classes are compared. Shifting each class's boxes by an offset, as torchvision does for fewer than 1000 boxes, is
      wrong for negative coordinates.
    """
    return _nms(boxes, scores, classes, threshold, valid, max_outputs)


def _nms(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array | None,
    threshold: float,
    valid: jax.Array | None,
    max_outputs: int | None,
) -> tuple[jax.Array, jax.Array]:
    count = len(scores)
    size = count if max_outputs is None else max_outputs
    if not count:
        return jnp.zeros(size, jnp.int32), jnp.int32(0)
    valid = jnp.ones(count, bool) if valid is None else valid
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    boxes, valid = boxes[order], valid[order]
    boxes = boxes.astype(at_least_float32(boxes.dtype))
    drops = box_iou(boxes, boxes) > _largest_up_to(threshold, boxes.dtype)
    if classes is not None:
        drops &= classes[order][:, None] == classes[order][None]
    drops &= jnp.arange(count)[:, None] < jnp.arange(count)[None]  # row: the better box, column: the other

    def drop(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        after = valid & ~(drops & kept[:, None]).any(0)
        return after, (after != kept).any()

    kept, _ = jax.lax.while_loop(lambda state: state[1], drop, (valid, jnp.bool_(True)))
    (places,) = jnp.nonzero(kept, size=min(size, count), fill_value=count)
    indices = jnp.where(places < count, order[jnp.minimum(places, count - 1)], 0).astype(jnp.int32)
    return jnp.pad(indices, (0, max(0, size - count))), jnp.minimum(kept.sum(dtype=jnp.int32), size)


def _largest_up_to(threshold: float, dtype: jnp.dtype) -> np.ndarray:
    """The largest number of a type that is not above a real number: x > number and x > threshold are the same."""
    number = np.asarray(threshold, dtype)
    return np.nextafter(number, np.asarray(-np.inf, dtype)) if float(number) > threshold else number
