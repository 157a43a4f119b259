"""Pooling with PyTorch's padding and rounding; global pooling of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.layers._dtypes import at_least_float32
from attnjax.layers._shifted import shifted


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
    pads = [_padding(size, window, stride, padding, ceil_mode) for size in x.shape[-3:-1]]
    return jax.lax.platform_dependent(
        x,
        cpu=partial(_max_of_shifted, window=window, stride=stride, pads=pads),
        default=partial(_max_of_windows, window=window, stride=stride, pads=pads),
    )


def avg_pool(
    x: jax.Array,
    window: int,
    stride: int,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """Mean of each window, as PyTorch's `AvgPool2d`, computed in float32 or wider.

    Args:
      x: (b, h, w, c), floating.
      window: side of the square window in pixels.
      stride: step of the window in pixels.
      padding: zeros added on each side.
      ceil_mode: round the output size up and let the last window hang over the far edge, as in `max_pool`.
      count_include_pad: whether the mean counts the padding's zeros. What hangs over is never counted.

    Returns:
      (b, h', w', c) of the input's type, with h' as in `max_pool`.

    Raises:
      ValueError: the window is larger than the padded input.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import avg_pool
      >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
      >>> avg_pool(x, 2, 2, ceil_mode=True, count_include_pad=False)[0, :, :, 0].tolist()
      [[2.0, 3.5], [6.5, 8.0]]
    """
    wide = at_least_float32(x.dtype)
    total = x.astype(wide)
    for axis in (1, 2):
        near, far = _padding(x.shape[axis], window, stride, padding, ceil_mode)
        counted = jnp.pad(jnp.ones((x.shape[axis],), wide), padding, constant_values=float(count_include_pad))
        counted = jnp.pad(counted, (0, far - padding))
        total = reduce(jnp.add, shifted(total, axis, window, stride=stride, pads=(near, far)))
        counts = reduce(jnp.add, shifted(counted, 0, window, stride=stride))
        total = total / counts.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return total.astype(x.dtype)


def _padding(size: int, window: int, stride: int, padding: int, ceil_mode: bool) -> tuple[int, int]:
    """Pixels before and after an axis, so that whole windows cover what PyTorch's pools cover."""
    room = size + 2 * padding - window
    if room < 0 and not (ceil_mode and room + stride > 0):
        raise ValueError(f"window={window} with padding={padding} does not fit into an input of {size} pixels")
    steps = -(-room // stride) if ceil_mode else room // stride
    if ceil_mode and steps * stride >= size + padding:
        steps -= 1
    return padding, max(padding, steps * stride + window - size - padding)


def _max_of_windows(x: jax.Array, window: int, stride: int, pads: list[tuple[int, int]]) -> jax.Array:
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        window_dimensions=(1, window, window, 1),
        window_strides=(1, stride, stride, 1),
        padding=((0, 0), *pads, (0, 0)),
    )


def _max_of_shifted(x: jax.Array, window: int, stride: int, pads: list[tuple[int, int]]) -> jax.Array:
    """The same by comparing shifted inputs, first within rows, then rows: a later value must be larger, or NaN."""
    for axis in (2, 1):
        largest, *others = shifted(x, axis, window, stride=stride, pads=pads[axis - 1], fill=-jnp.inf)
        for other in others:
            largest = jnp.where((other > largest) | jnp.isnan(other), other, largest)
        x = largest
    return x


def max_along(x: jax.Array, axis: int) -> jax.Array:
    """Largest value along an axis, kept with size 1; its gradient goes to the first of equal maxima, as PyTorch's does.

    The gradient of `jnp.max` compares the input with its maximum. A compiler that computes the input twice, once fused
    with more precision, then finds no maximum and loses gradient; a position does not depend on that.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax.layers import max_along
      >>> x = jnp.array([[1.0, 3.0, 3.0]])
      >>> max_along(x, -1).tolist(), jax.grad(lambda x: max_along(x, -1).sum())(x).tolist()
      ([[3.0]], [[0.0, 1.0, 0.0]])
    """
    return _max_along(x, axis)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_along(x: jax.Array, axis: int) -> jax.Array:
    return jnp.max(x, axis, keepdims=True)


@_max_along.defjvp
def _max_along_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    first = jnp.argmax(x, axis, keepdims=True)
    chosen = jax.lax.broadcasted_iota(first.dtype, x.shape, axis % x.ndim) == first
    return jnp.max(x, axis, keepdims=True), jnp.sum(jnp.where(chosen, tangent, 0), axis, keepdims=True)


def global_pool(x: jax.Array, kind: str = "avg") -> jax.Array:
    """Pools the whole map, (b, h, w, c) -> (b, c), in float32 or wider.

    Args:
      x: (b, h, w, c), floating.
      kind: `"avg"`, the mean; `"max"`, the largest value; `"lp"`, the Euclidean norm (a sum, not a mean, as in the
        released CBAM code; its gradient is 0 where the whole map is 0); `"lse"`, the log of the sum of exponentials;
        `"avg_max"`, halfway between the mean and the largest value (timm's options).

    Raises:
      ValueError: `kind` is none of these.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.layers import global_pool
      >>> x = jnp.array([3.0, 4.0]).reshape(1, 1, 2, 1)
      >>> [global_pool(x, kind).item() for kind in ("avg", "max", "lp")]
      [3.5, 4.0, 5.0]
    """
    check_choice("pool", kind, _GLOBAL_POOLS)
    return _GLOBAL_POOLS[kind](x.astype(at_least_float32(x.dtype)), _SPATIAL)


def _lp(x: jax.Array, axes: tuple[int, int]) -> jax.Array:
    energy = jnp.sum(jnp.square(x), axes)
    nonzero = energy > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, energy, 1)), 0)


def _max(x: jax.Array, axes: tuple[int, int]) -> jax.Array:
    flat = x.reshape(*x.shape[: axes[0]], -1, x.shape[-1])
    return jnp.squeeze(max_along(flat, -2), -2)


def _avg_max(x: jax.Array, axes: tuple[int, int]) -> jax.Array:
    return 0.5 * jnp.mean(x, axes) + 0.5 * _max(x, axes)


_SPATIAL = (-3, -2)
_GLOBAL_POOLS: dict[str, Callable[..., jax.Array]] = {
    "avg": jnp.mean,
    "max": _max,
    "lp": _lp,
    "lse": jax.nn.logsumexp,
    "avg_max": _avg_max,
}
