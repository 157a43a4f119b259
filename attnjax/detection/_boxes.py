"""Areas, overlaps and conversions of boxes."""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

from attnjax._choice import check_choice

EPSILON = 1e-7
"""Added to the denominators of distances and losses, as in torchvision."""


def box_area(boxes: jax.Array) -> jax.Array:
    """Area, (x2 - x1) (y2 - y1).

    Args:
      boxes: x1, y1, x2, y2, floating (..., 4).

    Returns:
      (...).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import box_area
      >>> box_area(jnp.array([1.0, 1.0, 4.0, 3.0])).item()
      6.0
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of all pairs of boxes. Sides are x2 - x1, so that touching boxes do not overlap.

    Args:
      a: floating (..., n, 4).
      b: floating (..., m, 4).

    Returns:
      (..., n, m); NaN where both boxes have no area, as in torchvision.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import box_iou
      >>> a, b = jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 2.0, 1.0], [2.0, 0.0, 3.0, 2.0]])
      >>> box_iou(a, b).tolist()
      [[0.5, 0.0]]
    """
    return _iou(*_pairs(a, b))


def generalized_box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU minus the share of the smallest enclosing box that the union leaves empty, of all pairs.

    Args:
      a: floating (..., n, 4).
      b: floating (..., m, 4).

    Returns:
      (..., n, m), in (-1, 1]; NaN where both boxes have no area.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import generalized_box_iou
      >>> generalized_box_iou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[3.0, 0.0, 4.0, 1.0]])).tolist()
      [[-0.5]]

    References:
      Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
    """
    a, b = _pairs(a, b)
    _, union = _intersection_and_union(a, b)
    enclosing = jnp.prod(_enclosing_sides(a, b), axis=-1)
    return _iou(a, b) - (enclosing - union) / enclosing


def distance_box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """IoU minus the squared distance of the centres over that of the enclosing box's corners, of all pairs.

    Args:
      a: floating (..., n, 4).
      b: floating (..., m, 4).

    Returns:
      (..., n, m).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import distance_box_iou
      >>> iou = distance_box_iou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[3.0, 0.0, 4.0, 1.0]]))
      >>> round(iou.item(), 4)
      -0.5294

    References:
      Zheng et al., "Distance-IoU Loss", AAAI 2020.
    """
    a, b = _pairs(a, b)
    return _iou(a, b) - _distance(a, b)


def complete_box_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """`distance_box_iou` minus a penalty for other aspect ratios, of all pairs.

    Args:
      a: floating (..., n, 4).
      b: floating (..., m, 4).

    Returns:
      (..., n, m).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import complete_box_iou
      >>> iou = complete_box_iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[0.0, 0.0, 2.0, 1.0]]))
      >>> round(iou.item(), 4)
      0.4655

    References:
      Zheng et al., "Distance-IoU Loss", AAAI 2020.
    """
    a, b = _pairs(a, b)
    iou = _iou(a, b)
    return iou - _distance(a, b) - _aspect_penalty(a, b, iou)


def box_iou_loss(
    a: jax.Array, b: jax.Array, kind: Literal["generalized", "distance", "complete"] = "generalized"
) -> jax.Array:
    """One minus the generalized, distance or complete IoU of each pair; differentiable in both boxes.

    Args:
      a, b: floating (..., 4).
      kind: which IoU. The weight of the complete one's aspect penalty has no gradient.

    Returns:
      (...).

    Raises:
      ValueError: the kind is none of those.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import box_iou_loss
      >>> box_iou_loss(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 4.0, 1.0])).round(4).item()
      1.5

    References:
      Rezatofighi et al., CVPR 2019; Zheng et al., AAAI 2020.

    Notes:
      As in torchvision, 1e-7 is added to every denominator, which the pairwise functions do for distances alone.
    """
    check_choice("kind", kind, ("generalized", "distance", "complete"))
    apart = (a[..., 2:] <= b[..., :2]) | (b[..., 2:] <= a[..., :2])
    corners = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    intersection = jnp.where(apart.any(-1), 0, jnp.prod(corners, axis=-1))
    union = box_area(a) + box_area(b) - intersection
    iou = intersection / (union + EPSILON)
    if kind == "generalized":
        enclosing = jnp.prod(jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2]), axis=-1)
        return 1 - iou + (enclosing - union) / (enclosing + EPSILON)
    loss = 1 - iou + _distance(a, b)
    return loss + _aspect_penalty(a, b, iou) if kind == "complete" else loss


def convert_boxes(boxes: jax.Array, source: str, target: str) -> jax.Array:
    """Converts boxes between `"xyxy"` (corners), `"xywh"` (first corner and sides) and `"cxcywh"` (centre and sides).

    Args:
      boxes: (..., 4).
      source, target: the form they have, and the one that is wanted.

    Returns:
      (..., 4).

    Raises:
      ValueError: a form is none of those.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import convert_boxes
      >>> convert_boxes(jnp.array([1.0, 2.0, 3.0, 6.0]), "xyxy", "cxcywh").tolist()
      [2.0, 4.0, 2.0, 4.0]
    """
    for name, form in (("source", source), ("target", target)):
        check_choice(name, form, ("xyxy", "xywh", "cxcywh"))
    if source == target:
        return boxes
    first, second = boxes[..., :2], boxes[..., 2:]
    if source == "xywh":
        second = first + second
    elif source == "cxcywh":
        first, second = first - second / 2, first + second / 2
    if target == "xywh":
        second = second - first
    elif target == "cxcywh":
        first, second = (first + second) / 2, second - first
    return jnp.concatenate([first, second], axis=-1)


def clip_boxes(boxes: jax.Array, size: jax.Array) -> jax.Array:
    """Clips boxes to [0, w] and [0, h].

    Args:
      boxes: floating (..., 4).
      size: h, w of the image, (2,), or of each box, (..., 2).

    Returns:
      (..., 4).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import clip_boxes
      >>> clip_boxes(jnp.array([-1.0, 2.0, 9.0, 9.0]), jnp.array([5.0, 8.0])).tolist()
      [0.0, 2.0, 8.0, 5.0]
    """
    ends = size.astype(boxes.dtype)[..., jnp.array([1, 0, 1, 0])]
    return jnp.clip(boxes, 0, ends.reshape((1,) * (boxes.ndim - ends.ndim) + ends.shape))


def has_sides(boxes: jax.Array, size: float) -> jax.Array:
    """Whether both sides of boxes are at least `size` long.

    Args:
      boxes: floating (..., 4).
      size: in pixels.

    Returns:
      bool (...).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import has_sides
      >>> has_sides(jnp.array([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 2.0, 0.5]]), 1.0).tolist()
      [True, False]
    """
    return (boxes[..., 2:] - boxes[..., :2] >= size).all(-1)


def _pairs(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    return a[..., :, None, :], b[..., None, :, :]


def _intersection_and_union(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    sides = jnp.minimum(a[..., 2:], b[..., 2:]) - jnp.maximum(a[..., :2], b[..., :2])
    intersection = jnp.prod(jnp.maximum(sides, 0), axis=-1)
    return intersection, box_area(a) + box_area(b) - intersection


def _iou(a: jax.Array, b: jax.Array) -> jax.Array:
    intersection, union = _intersection_and_union(a, b)
    return intersection / union


def _enclosing_sides(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2]), 0)


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Squared distance of the centres over the squared diagonal of the enclosing box."""
    diagonal = jnp.square(_enclosing_sides(a, b)).sum(-1) + EPSILON
    centres = [(box[..., :2] + box[..., 2:]) / 2 for box in (a, b)]
    return jnp.square(centres[0] - centres[1]).sum(-1) / diagonal


def _aspect_penalty(a: jax.Array, b: jax.Array, iou: jax.Array) -> jax.Array:
    angles = [jnp.arctan((box[..., 2] - box[..., 0]) / (box[..., 3] - box[..., 1])) for box in (a, b)]
    difference = 4 / math.pi**2 * jnp.square(angles[0] - angles[1])
    return jax.lax.stop_gradient(difference / (1 - iou + difference + EPSILON)) * difference
