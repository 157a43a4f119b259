"""Matching of anchors and proposals with ground-truth boxes, and their random sampling."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from attnjax._choice import check_choice

NEGATIVE, IGNORED = -1, -2
"""What `match` gives anchors that no ground-truth box is matched with."""


def match(
    quality: jax.Array,
    high: float,
    low: float,
    *,
    low_quality: Literal["none", "own", "asking"] = "none",
    min_quality: float = 0.0,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Matches each anchor with the ground-truth box it overlaps most, if that is enough.

    Args:
      quality: IoU of ground-truth boxes and anchors, floating (g, k).
      high: from this IoU on an anchor is positive.
      low: below this IoU it is negative; between, it is ignored.
      low_quality: whether the anchors that overlap a ground-truth box most (all that tie) are positive, too. `"own"`
        matches them with the box that they themselves overlap most (torchvision), `"asking"` with the box that asked,
        a later one before an earlier one (mmdetection).
      min_quality: a ground-truth box asks only if its best IoU is at least this (mmdetection's `min_pos_iou`). At 0 a
        box that no anchor overlaps makes all anchors with which its IoU is 0 positive, in both references.
      valid: bool (g,): whether a row is a ground-truth box or padding; None for all.

    Returns:
      int32 (k,): index of the matched box; `NEGATIVE`, -1, or `IGNORED`, -2, elsewhere.

    Raises:
      ValueError: low_quality is none of those, or `low` is above `high`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import match
      >>> quality = jnp.array([[0.8, 0.0, 0.1], [0.2, 0.4, 0.1]])
      >>> match(quality, 0.7, 0.3).tolist(), match(quality, 0.7, 0.3, low_quality="own").tolist()
      ([0, -2, -1], [0, 1, -1])

    References:
      Ren et al., "Faster R-CNN", NeurIPS 2015.
    """
    check_choice("low_quality", low_quality, ("none", "own", "asking"))
    if low > high:
        raise ValueError(f"low={low} is above high={high}")
    boxes, anchors = quality.shape
    if not boxes:
        return jnp.full(anchors, NEGATIVE, jnp.int32)
    valid = jnp.ones(boxes, bool) if valid is None else valid
    quality = jnp.where(valid[:, None], quality, -1)  # padding is below all, and never asks
    best, own = quality.max(0), quality.argmax(0).astype(jnp.int32)
    matches = jnp.where(best >= high, own, jnp.where(best < low, NEGATIVE, IGNORED))
    if low_quality == "none":
        return matches
    most = quality.max(1, keepdims=True)
    asks = (quality == most) & (most >= min_quality) & valid[:, None]
    asking = boxes - 1 - asks[::-1].argmax(0).astype(jnp.int32)
    return jnp.where(asks.any(0), own if low_quality == "own" else asking, matches)


def sample(
    key: jax.Array | None, positive: jax.Array, negative: jax.Array, size: int, positive_fraction: float
) -> tuple[jax.Array, jax.Array]:
    """Draws at most `size` anchors, of which at most a fraction is positive; negatives fill the rest.

    Args:
      key: PRNG key; may be None if nothing can be left out: both shares of `size` are at least k.
      positive, negative: bool (k,).
      size: number of anchors to draw.
      positive_fraction: the positives drawn are at most `int(size * positive_fraction)`.

    Returns:
      The positives and the negatives that are drawn, bool (k,).

    Raises:
      ValueError: there is no key, but it is needed.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.detection import sample
      >>> positive, negative = sample(jax.random.key(0), jnp.arange(9) < 4, jnp.arange(9) >= 4, 6, 0.5)
      >>> positive.sum().item(), negative.sum().item()
      (3, 3)
    """
    count, most = len(positive), int(size * positive_fraction)
    if most >= count and size - most >= count:
        return positive, negative
    if key is None:
        raise ValueError(f"size={size} of {count} anchors are drawn at random: give a key")
    keys = jax.random.split(key)
    positive = _draw(keys[0], positive, most, jnp.int32(most))
    return positive, _draw(keys[1], negative, size, size - positive.sum(dtype=jnp.int32))


def _draw(key: jax.Array, among: jax.Array, most: int, count: jax.Array) -> jax.Array:
    """`count` of those among which to draw, at most `most` and all there are, bool (k,)."""
    most = min(most, len(among))
    best, indices = jax.lax.top_k(jnp.where(among, jax.random.uniform(key, among.shape), -1.0), most)
    return jnp.zeros(among.shape, bool).at[indices].set((best >= 0) & (jnp.arange(most, dtype=jnp.int32) < count))
