"""Boxes as differences to anchors or proposals, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

MAX_LOG_SCALE = math.log(1000 / 16)
"""Bound on the logarithm by which a decoded side is longer than its anchor's."""


def encode_boxes(boxes: jax.Array, anchors: jax.Array, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> jax.Array:
    """Differences of boxes to anchors: dx = (x - xa) / wa, dw = log(w / wa), times weights; of centres x, y.

    Args:
      boxes: floating (..., 4).
      anchors: floating (..., 4), with sides above 0.
      weights: of dx, dy, dw and dh. (10, 10, 5, 5) is mmdetection's `target_stds=(0.1, 0.1, 0.2, 0.2)`.

    Returns:
      dx, dy, dw, dh, (..., 4); infinite or NaN for a box or an anchor without area.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import encode_boxes
      >>> encode_boxes(jnp.array([2.0, 0.0, 6.0, 4.0]), jnp.array([0.0, 0.0, 4.0, 4.0])).tolist()
      [0.5, 0.0, 0.0, 0.0]

    References:
      Girshick et al., "Rich Feature Hierarchies", CVPR 2014; Ren et al., "Faster R-CNN", NeurIPS 2015.
    """
    sides, centres = zip(*map(_sides_and_centre, (boxes, anchors)), strict=True)
    shift = (centres[0] - centres[1]) / sides[1]
    deltas = jnp.concatenate([shift, jnp.log(sides[0] / sides[1])], axis=-1)
    return deltas * _row(weights, deltas)


def decode_boxes(
    deltas: jax.Array,
    anchors: jax.Array,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    clamp_both: bool = True,
) -> jax.Array:
    """The boxes of which `encode_boxes` makes the differences.

    Args:
      deltas: floating (..., 4).
      anchors: floating (..., 4).
      weights: as they were encoded with.
      clamp_both: whether dw and dh are clamped to log(1000 / 16) from below, too (mmdetection), or from above alone
        (torchvision).

    Returns:
      (..., 4).

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import decode_boxes
      >>> decode_boxes(jnp.array([0.5, 0.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 4.0, 4.0])).tolist()
      [2.0, 0.0, 6.0, 4.0]
    """
    deltas = deltas / _row(weights, deltas)
    sides, centre = _sides_and_centre(anchors.astype(deltas.dtype))
    log_scale = jnp.clip(deltas[..., 2:], -MAX_LOG_SCALE if clamp_both else None, MAX_LOG_SCALE)
    centre, half = centre + deltas[..., :2] * sides, sides * jnp.exp(log_scale) / 2
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def _sides_and_centre(boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides, boxes[..., :2] + sides / 2


def _row(weights: Sequence[float], deltas: jax.Array) -> jax.Array:
    return jnp.asarray(weights, deltas.dtype).reshape((1,) * (deltas.ndim - 1) + (4,))
