"""How a convolution is computed: natively, or in the way that was measured to be fast on CPUs or to compile on TPUs."""

from __future__ import annotations

import math
from functools import partial, reduce
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from attnjax.layers._dtypes import at_least_float32
from attnjax.layers._native import are_native
from attnjax.layers._shifted import shifted

_LARGEST_BAND = 2**22
"""Elements of a matrix: a 7x7 kernel on two channels of rows of 512 pixels."""


class Window(NamedTuple):
    """What a convolution does besides its kernel, the same along both axes."""

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def output_size(self, size: int, kernel_size: int) -> int:
        """Positions along an axis of `size` pixels."""
        return (size + 2 * self.padding - self.dilation * (kernel_size - 1) - 1) // self.stride + 1

    def views(self, x: jax.Array, axis: int, kernel_size: int) -> list[jax.Array]:
        """The padded input as each tap sees it along an axis."""
        pads = (self.padding, self.padding)
        return shifted(x, axis, kernel_size, stride=self.stride, dilation=self.dilation, pads=pads)


class Lowering(Protocol):
    """One way to compute a convolution of x (b, h, w, c) with a kernel (k, k, c / groups, features)."""

    __name__: str

    def __call__(self, x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array: ...


def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolves x (b, h, w, c) with a kernel (k, k, c / groups, features).

    The choice falls when the program is lowered, so that an export for several platforms holds each one's own form.
    Within `native_convolutions` it is XLA's own for all of them.
    """
    if are_native():
        return native(x, kernel, window)
    on_cpu, on_tpu = choose_for_cpu(x.shape, kernel.shape, window), choose_for_tpu(x.shape, kernel.shape, window)
    if on_cpu is grouped and jax.typeof(x).sharding.spec[0] is not None:
        on_cpu = native  # groups cannot be put into a batch that a mesh of explicit axes has spread
    special = {name: form for name, form in (("cpu", on_cpu), ("tpu", on_tpu)) if form is not native}
    if not special:
        return native(x, kernel, window)
    forms = {name: partial(form, window=window) for name, form in special.items()}
    return jax.lax.platform_dependent(x, kernel, **forms, default=partial(native, window=window))


def choose_for_cpu(shape: tuple[int, ...], kernel_shape: tuple[int, ...], window: Window) -> Lowering:
    """The fastest form of value and gradients together on a CPU: the rule drawn from docs/results/benchmark_layers.md.

    XLA swaps input and kernel of an ungrouped convolution whose map has fewer positions than the kernel has taps, and
    is then 5 to 50 times slower. It has no fast filter gradient of a grouped one, and pays for every group, so that up
    to 64 output channels the zeros of a block-diagonal kernel cost less than the groups.
    """
    kernel_size, _, _, features = kernel_shape
    channels = shape[-1]
    if window.groups == channels == features > 1:
        return shifted_products
    if kernel_size == 1 and window.groups == 1 and window.padding == 0:
        return matrix_product
    sizes = shape[-3:-1]
    swapped = False
    if not any(export.is_symbolic_dim(size) for size in sizes):
        outputs = [window.output_size(size, kernel_size) for size in sizes]
        swapped = min(math.prod(sizes), math.prod(outputs)) < kernel_size**2
    if window.groups > 1:
        return block_diagonal if features <= 64 and not swapped else grouped
    return patches_product if swapped and channels * features >= 64 * 64 else native


def choose_for_tpu(shape: tuple[int, ...], kernel_shape: tuple[int, ...], window: Window) -> Lowering:
    """XLA's own, but for a few channels to one, as spatial gates have them; times are in docs/results.

    XLA's filter gradient takes minutes to compile there. A product compiles in seconds, and fills the columns of the
    matrix unit, of which one channel would use one; its matrix must stay small.
    """
    kernel_size, _, inputs, features = kernel_shape
    width = shape[-2]
    if kernel_size == 1 or features > 1 or export.is_symbolic_dim(width):
        return native
    size = width * kernel_size * inputs * window.output_size(width, kernel_size)
    return banded_product if size <= _LARGEST_BAND else native


def native(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(window.stride, window.stride),
        padding=((window.padding, window.padding), (window.padding, window.padding)),
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


def matrix_product(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A 1x1 convolution as a product of the strided input with the kernel's matrix."""
    x = x[:, :: window.stride, :: window.stride]
    return jax.lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


def shifted_products(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A depthwise convolution as a sum over taps of the shifted input times the tap's weights."""
    wide = at_least_float32(x.dtype)
    kernel_size = kernel.shape[0]
    weights = kernel.astype(wide).reshape(kernel_size, kernel_size, 1, 1, 1, -1)
    products = (
        tap * weights[i, j]
        for j, column in enumerate(window.views(x.astype(wide), 2, kernel_size))
        for i, tap in enumerate(window.views(column, 1, kernel_size))
    )
    return reduce(jnp.add, products).astype(x.dtype)


def block_diagonal(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """An ungrouped convolution whose kernel is 0 between the groups."""
    _, _, inputs, features = kernel.shape
    group_of_input = np.arange(window.groups * inputs) // inputs
    group_of_output = np.arange(features) // (features // window.groups)
    same = np.equal.outer(group_of_input, group_of_output)[None, None]
    full = jnp.where(same, jnp.tile(kernel, (1, 1, window.groups, 1)), 0)
    return native(x, full, window._replace(groups=1))


def grouped(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """XLA's grouped convolution, with a filter gradient that is a grouped convolution again."""
    return _grouped(x, kernel, window)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _grouped(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    return native(x, kernel, window)


@_grouped.defjvp
def _grouped_jvp(
    window: Window, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, kernel), (x_dot, kernel_dot) = primals, tangents
    from_kernel = _groups_in_batch(x, kernel_dot, window)
    return _grouped(x, kernel, window), _grouped(x_dot, kernel, window) + from_kernel


def _groups_in_batch(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The same with the groups moved into the batch.

    The transpose of `batch_group_count` is `feature_group_count`, which XLA's CPU backend computes quickly; the reverse
    it does not.
    """
    b, h, w, c = x.shape
    apart = jnp.moveaxis(x.reshape(b, h, w, window.groups, c // window.groups), 3, 0)
    return jax.lax.conv_general_dilated(
        apart.reshape(window.groups * b, h, w, c // window.groups),
        kernel,
        window_strides=(window.stride, window.stride),
        padding=((window.padding, window.padding), (window.padding, window.padding)),
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        batch_group_count=window.groups,
    )


def banded_product(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A convolution as a product of every row's window with a matrix that has the kernel along a band."""
    kernel_size, _, inputs, features = kernel.shape
    width = x.shape[2]
    outputs = window.output_size(width, kernel_size)
    rows = jnp.concatenate(window.views(x, 1, kernel_size), -1)  # (b, h', w, rows and c)
    starts = jnp.arange(outputs)[None, :, None] * window.stride - window.padding
    seen = starts + jnp.arange(kernel_size)[None, None] * window.dilation  # (1, w', columns)
    band = (jnp.arange(width)[:, None, None] == seen).astype(kernel.dtype)
    matrix = jnp.einsum("iot,rtcf->ircof", band, kernel)
    matrix = matrix.reshape(width * kernel_size * inputs, outputs * features)
    products = rows.reshape(*rows.shape[:2], -1) @ matrix
    return products.reshape(*products.shape[:2], outputs, features)


def patches_product(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """An ungrouped convolution as a product of every position's patch with the kernel's matrix."""
    x = jnp.stack(window.views(x, 1, kernel.shape[0]), -2)
    x = jnp.stack(window.views(x, 2, kernel.shape[0]), -3)  # (b, h', w', columns, rows, c)
    return jax.lax.dot_general(x, kernel, (((4, 3, 5), (0, 1, 2)), ((), ())))
