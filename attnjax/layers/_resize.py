"""Resizing of maps with PyTorch's choice of positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.layers._dtypes import at_least_float32


def resize_bilinear(x: jax.Array, size: tuple[int, int], align_corners: bool = True) -> jax.Array:
    """Interpolates linearly along both axes, as PyTorch's `interpolate(mode="bilinear")`.

    Output pixel i reads the input at i (h - 1) / (h' - 1), so that corners keep their values, or else at
    (i + 1/2) h / h' - 1/2, not below 0. Nothing is smoothed where the map shrinks.

    Args:
      x: (b, h, w, c), floating.
      size: (h', w') in pixels.
      align_corners: which of the two; True is also what the Caffe `Interp` layer does.

    Returns:
      (b, h', w', c) of the input's type, computed in float32 or wider.

    Raises:
      ValueError: `size` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import resize_bilinear
      >>> resize_bilinear(jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1), (1, 5)).ravel().tolist()
      [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    rows, columns = (_linear_weights(old, new, align_corners) for old, new in _axes(x, size))
    return interpolation(x, rows, columns)


def resize_nearest(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Repeats or drops pixels, as PyTorch's `interpolate(mode="nearest")`: output pixel i is the input's i h / h'.

    Args:
      x: (b, h, w, c), floating.
      size: (h', w') in pixels.

    Returns:
      (b, h', w', c) of the input's type.

    Raises:
      ValueError: `size` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import resize_nearest
      >>> resize_nearest(jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), (1, 5)).ravel().tolist()
      [1.0, 1.0, 1.0, 2.0, 2.0]
    """
    rows, columns = (np.eye(old)[_nearest(old, new)] for old, new in _axes(x, size))
    return interpolation(x, rows, columns)


def _axes(x: jax.Array, size: tuple[int, int]) -> list[tuple[int, int]]:
    if min(size) < 1:
        raise ValueError(f"size={tuple(size)} must be at least one pixel a side")
    return list(zip(x.shape[1:3], size, strict=True))


def _linear_weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    """The matrix (new, old) that interpolates along an axis."""
    if align_corners:
        position = np.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        position = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
    return np.maximum(1 - np.abs(np.minimum(position, old - 1)[:, None] - np.arange(old)), 0)


def _nearest(old: int, new: int) -> np.ndarray:
    # PyTorch multiplies by a float32 ratio; where that is rounded down, an exact quotient would be a pixel further.
    ratio = np.float32(old) / np.float32(new)
    return np.minimum(np.floor(np.arange(new, dtype=np.float32) * ratio).astype(int), old - 1)


@jax.jit
def interpolation(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Multiplies both spatial axes by a matrix each, in batched products that need no transposition of the map.

    It is a call of its own so that `count_macs` can tell it from a layer.
    """
    wide = at_least_float32(x.dtype)
    b, h, w, c = x.shape
    y = _product(rows.astype(wide), x.astype(wide).reshape(b, h, w * c)).reshape(b, len(rows), w, c)
    return _product(columns.astype(wide), y).astype(x.dtype)


def _product(matrix: jax.Array, x: jax.Array) -> jax.Array:
    axes = tuple(range(x.ndim - 2))
    like_batch = jnp.zeros_like(x[..., :1, :1])  # spread over a mesh as x is
    repeated = like_batch + matrix.reshape((1,) * len(axes) + matrix.shape)
    dimensions = (((len(axes) + 1,), (len(axes),)), (axes, axes))
    return jax.lax.dot_general(repeated, x, dimensions, precision=jax.lax.Precision.HIGHEST)
