"""What a sliding window sees, one shifted and strided slice per tap."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def shifted(
    x: jax.Array,
    axis: int,
    taps: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    pads: tuple[int, int] = (0, 0),
    fill: float = 0.0,
) -> list[jax.Array]:
    """The input, padded along an axis, as each tap of a window sees it there."""
    x = jnp.pad(x, [pads if i == axis else (0, 0) for i in range(x.ndim)], constant_values=fill)
    starts = [tap * dilation for tap in range(taps)]
    reach = (x.shape[axis] - starts[-1] - 1) // stride * stride + 1
    return [jax.lax.slice_in_dim(x, start, start + reach, stride, axis) for start in starts]
