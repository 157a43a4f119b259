"""The pointing game: whether a map is highest on the object."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pointing_game(maps: jax.Array, boxes: jax.Array, *, tolerance: float = 0.0) -> jax.Array:
    """Whether the maximum of each map is inside the box of the object.

    A map hits if the distance from its highest pixel to the nearest pixel of the box is at most the tolerance. The mean
    over many images is the score.

    Args:
      maps: (b, h, w).
      boxes: (b, 4), y0, x0, y1, x1 in pixels of the maps; y1 and x1 are exclusive.
      tolerance: tolerance in pixels.

    Returns:
      (b,), bool. Of several maxima the first in reading order counts; a constant map misses.

    Raises:
      ValueError: shapes do not fit, or the tolerance is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.explain import pointing_game
      >>> maps = jnp.zeros((2, 8, 8)).at[:, 5, 2].set(1.0)
      >>> boxes = jnp.array([[4, 1, 7, 4], [0, 0, 4, 8]])
      >>> pointing_game(maps, boxes).tolist(), pointing_game(maps, boxes, tolerance=2).tolist()
      ([True, False], [True, True])

    References:
      Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV 2016, with a tolerance of 15 pixels.
    """
    if maps.ndim != 3 or boxes.shape != (len(maps), 4):
        raise ValueError(f"maps {list(maps.shape)} and boxes {list(boxes.shape)} must be (b, h, w) and (b, 4)")
    if tolerance < 0:
        raise ValueError(f"tolerance={tolerance} must be at least 0")
    flat = maps.reshape(len(maps), -1)
    y, x = (coordinate.astype(jnp.float32) for coordinate in jnp.divmod(jnp.argmax(flat, -1), maps.shape[2]))
    y0, x0, y1, x1 = boxes.astype(jnp.float32).T
    down, across = (jnp.maximum(jnp.maximum(a - at, at - b + 1), 0) for at, a, b in ((y, y0, y1), (x, x0, x1)))
    near = down**2 + across**2 <= tolerance**2
    return near & (jnp.max(flat, -1) > jnp.min(flat, -1))
