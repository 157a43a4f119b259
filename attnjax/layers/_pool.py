"""Pooling with PyTorch's padding and rounding; global pooling of several kinds."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from attnjax.layers._dtypes import at_least_float32


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0, ceil_mode: bool = False) -> jax.Array:
    """Largest value of each window, padded with minus infinity as PyTorch's `MaxPool2d`.

    Args:
      x: (b, h, w, c), floating.
      window: side of the square window in pixels.
      stride: step of the window in pixels.
      padding: pixels added on each side.
      ceil_mode: round the output size up, as Caffe does, and let the last window hang over the far edge.

    Returns:
      (b, h', w', c) with h' = (h + 2 padding - window) / stride + 1, rounded down (up with `ceil_mode`, except that no
      window may start beyond the input and its near padding).

    Raises:
      ValueError: the window is larger than the padded input.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import max_pool
      >>> max_pool(jnp.ones((1, 112, 112, 64)), 3, 2, padding=1).shape
      (1, 56, 56, 64)
    """
    pads = []
    for size in x.shape[-3:-1]:
        room = size + 2 * padding - window
        if room < 0 and not (ceil_mode and room + stride > 0):
            raise ValueError(f"window={window} with padding={padding} does not fit into an input of {size} pixels")
        steps = -(-room // stride) if ceil_mode else room // stride
        if ceil_mode and steps * stride >= size + padding:
            steps -= 1
        pads.append((padding, max(padding, steps * stride + window - size - padding)))
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        window_dimensions=(1, window, window, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), *pads, (0, 0)),
    )


def global_pool(x: jax.Array, kind: str = "avg") -> jax.Array:
    """Pools the whole map, (b, h, w, c) -> (b, c), in float32 or wider.

    Args:
      x: (b, h, w, c), floating.
      kind: `"avg"`, the mean; `"max"`, the largest value; `"lp"`, the Euclidean norm (a sum, not a mean, as in the
        released CBAM code; its gradient is 0 where the whole map is 0); `"lse"`, the log of the sum of exponentials.

    Raises:
      ValueError: `kind` is none of these.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import global_pool
      >>> x = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
      >>> [global_pool(x, kind).item() for kind in ("avg", "max", "lp")]
      [3.5, 4.0, 5.0]
    """
    if kind not in _GLOBAL_POOLS:
        raise ValueError(f"pool {kind!r} is not one of {', '.join(_GLOBAL_POOLS)}")
    return _GLOBAL_POOLS[kind](x.astype(at_least_float32(x.dtype)), _SPATIAL)


def _lp(x: jax.Array, axes: tuple[int, int]) -> jax.Array:
    energy = jnp.sum(jnp.square(x), axes)
    nonzero = energy > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, energy, 1)), 0)


_SPATIAL = (-3, -2)
_GLOBAL_POOLS: dict[str, Callable[..., jax.Array]] = {
    "avg": jnp.mean,
    "max": jnp.max,
    "lp": _lp,
    "lse": jax.nn.logsumexp,
}
