"""Every form in which a convolution is computed gives the numbers and derivatives of XLA's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import attnjax
from attnjax.layers import Conv, native_convolutions
from attnjax.layers._convolve import (
    Window,
    banded_product,
    block_diagonal,
    choose_for_cpu,
    choose_for_tpu,
    convolve,
    grouped,
    matrix_product,
    native,
    patches_product,
    shifted_products,
)

# form, (b, h, w, c), features, kernel size, window
CASES: list[tuple[Any, tuple[int, ...], int, int, Window]] = [
    (matrix_product, (2, 5, 4, 6), 4, 1, Window(stride=2)),
    (matrix_product, (2, 5, 4, 6), 4, 1, Window()),
    (shifted_products, (2, 6, 5, 8), 8, 3, Window(1, 1, 1, 8)),
    (shifted_products, (2, 6, 5, 8), 8, 3, Window(2, 1, 1, 8)),
    (shifted_products, (2, 7, 7, 8), 8, 3, Window(1, 2, 2, 8)),
    (block_diagonal, (2, 6, 5, 16), 4, 5, Window(1, 2, 1, 4)),
    (block_diagonal, (2, 9, 10, 16), 8, 3, Window(2, 1, 1, 4)),
    (grouped, (2, 7, 6, 16), 80, 3, Window(2, 2, 2, 8)),
    (grouped, (2, 4, 4, 32), 16, 9, Window(1, 4, 1, 16)),
    (patches_product, (2, 2, 3, 64), 64, 3, Window(1, 1, 1, 1)),
    (patches_product, (2, 4, 3, 64), 64, 3, Window(2, 1, 1, 1)),
    (native, (2, 6, 6, 4), 8, 3, Window(1, 1, 1, 1)),
]
ON_TPU: list[tuple[Any, tuple[int, ...], int, int, Window]] = [
    (banded_product, (2, 6, 5, 2), 1, 7, Window(1, 3)),
    (banded_product, (2, 6, 5, 3), 1, 3, Window(2, 2, 2)),
    (banded_product, (2, 6, 5, 2), 4, 3, Window(2, 1)),
]
ONE_OF_EACH = list({case[0].__name__: case for case in CASES if case[0] is not native}.values())
every_case = pytest.mark.parametrize(("form", "shape", "features", "kernel_size", "window"), CASES)


def _operands(shape: tuple[int, ...], features: int, kernel_size: int, window: Window) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((kernel_size, kernel_size, shape[-1] // window.groups, features))
    return jnp.asarray(rng.standard_normal(shape)), jnp.asarray(kernel)


def _everything(form: Any, window: Window, x: jax.Array, kernel: jax.Array) -> Any:
    """Value, tangent, gradient, derivative of the gradient, and both under vmap over inputs and over kernels."""

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(form(x, kernel, window)))

    gradient = jax.grad(loss, (0, 1))
    operands, tangents = (x, kernel), (jnp.cos(x), jnp.cos(kernel))
    over_kernels = jnp.stack([kernel, jnp.cos(kernel)])
    return (
        jax.jvp(lambda x, kernel: form(x, kernel, window), operands, tangents),
        jax.jvp(gradient, operands, tangents),
        jax.vmap(gradient, (0, None))(x[:, None], kernel),
        jax.vmap(gradient, (None, 0))(x, over_kernels),
    )


def _assert_native_to_the_second_derivative(
    form: Any, shape: tuple[int, ...], features: int, kernel_size: int, window: Window
) -> None:
    with jax.enable_x64(True):
        x, kernel = _operands(shape, features, kernel_size, window)
        compute = jax.jit(lambda form, x, kernel: _everything(form, window, x, kernel), static_argnums=0)
        ours, reference = compute(form, x, kernel), compute(native, x, kernel)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True):
        assert mine.dtype == jnp.float64
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)


@every_case
def test_forms_agree_to_the_second_derivative(
    form: Any, shape: tuple[int, ...], features: int, kernel_size: int, window: Window
) -> None:
    kernel_shape = (kernel_size, kernel_size, shape[-1] // window.groups, features)
    assert choose_for_cpu(shape, kernel_shape, window).__name__ == form.__name__
    assert choose_for_tpu(shape, kernel_shape, window) is native
    _assert_native_to_the_second_derivative(convolve, shape, features, kernel_size, window)


@pytest.mark.parametrize(("form", "shape", "features", "kernel_size", "window"), ON_TPU)
def test_forms_for_tpus_agree_to_the_second_derivative(
    form: Any, shape: tuple[int, ...], features: int, kernel_size: int, window: Window
) -> None:
    kernel_shape = (kernel_size, kernel_size, shape[-1], features)
    assert (choose_for_tpu(shape, kernel_shape, window) is form) == (features == 1)
    _assert_native_to_the_second_derivative(form, shape, features, kernel_size, window)


@pytest.mark.parametrize(("width", "channels", "is_banded"), [(512, 2, True), (560, 2, False), (56, 512, False)])
def test_the_matrix_of_a_band_stays_small(width: int, channels: int, is_banded: bool) -> None:
    chosen = choose_for_tpu((2, 56, width, channels), (7, 7, channels, 1), Window(1, 3))
    assert (chosen is banded_product) == is_banded


@pytest.mark.parametrize(("sizes", "on_tpu"), [("2, 6, 6", True), ("b, h, 6", True), ("b, h, w", False)])
def test_a_convolution_to_one_channel_is_a_product_on_tpus_alone(sizes: str, on_tpu: bool) -> None:
    shapes = ((*export.symbolic_shape(sizes), 2), (7, 7, 2, 1))
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    gradient = jax.jit(jax.grad(lambda kernel, x: jnp.sum(jnp.sin(convolve(x, kernel, Window(1, 3))))))
    modules = {name: export.export(gradient, platforms=(name,))(kernel, x).mlir_module() for name in ("cpu", "tpu")}
    assert {name: "dot_general" in text for name, text in modules.items()} == {"cpu": False, "tpu": on_tpu}


@pytest.mark.parametrize("case", [*ONE_OF_EACH, ON_TPU[0]], ids=lambda case: case[0].__name__)
def test_bfloat16_is_as_precise_as_the_native_form(case: Any) -> None:
    form, shape, features, kernel_size, window = case
    x, kernel = (a.astype(jnp.bfloat16) for a in _operands(shape, features, kernel_size, window))

    cotangent = jax.random.normal(jax.random.key(0), native(x, kernel, window).shape, jnp.bfloat16)

    @partial(jax.jit, static_argnums=0)
    def compute(form: Any, x: jax.Array, kernel: jax.Array) -> Any:
        y, pullback = jax.vjp(lambda x, kernel: form(x, kernel, window), x, kernel)
        return y, *pullback(cotangent.astype(y.dtype))

    ours, theirs = compute(form, x, kernel), compute(native, x, kernel)
    exact = compute(native, x.astype(jnp.float32), kernel.astype(jnp.float32))
    for mine, other, wide in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == jnp.bfloat16
        error, allowed = (jnp.abs(value.astype(jnp.float32) - wide).max() for value in (mine, other))
        assert error <= allowed + 2**-8 * jnp.abs(wide).max()


def test_an_export_holds_each_platforms_own_form() -> None:
    window = Window(1, 2, 1, 4)
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 6, 6, 16), (5, 5, 4, 8)))
    gradient = jax.jit(jax.grad(lambda x, kernel: jnp.sum(convolve(x, kernel, window)), (0, 1)))
    native_mark = "feature_group_count = 4"
    modules = {name: export.export(gradient, platforms=(name,))(x, kernel).mlir_module() for name in ("cpu", "tpu")}
    assert {name: native_mark in text for name, text in modules.items()} == {"cpu": False, "tpu": True}

    batch, size = export.symbolic_shape("b, 8*s")
    for shape in ((batch, 6, 6, 16), (batch, size, size, 16)):
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        both = export.export(gradient, platforms=("cpu", "tpu"))(x, kernel)
        assert both.platforms == ("cpu", "tpu")
        assert native_mark in both.mlir_module()


def test_native_convolutions_are_those_of_xla_and_end_with_the_context() -> None:
    x, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((1, 1, 4, 16))
    traces: list[bool] = []

    @jax.jit
    def apply(x: jax.Array) -> jax.Array:
        traces.append("dot_general" not in str(jax.make_jaxpr(convolve, static_argnums=2)(x, kernel, Window())))
        return convolve(x, kernel, Window())

    apply(x)
    with native_convolutions():
        apply(x)
    with pytest.raises(TypeError), native_convolutions():
        apply("no array")
    apply(x)
    assert traces == [False, True]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case[0].__name__)
def test_a_batch_may_be_spread_over_devices(case: Any, axis_type: AxisType) -> None:
    _, shape, features, kernel_size, window = case
    x, kernel = _operands((8, *shape[1:]), features, kernel_size, window)
    gradient = jax.jit(jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolve(x, kernel, window))), (0, 1)))
    expected = gradient(x, kernel)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        ours = gradient(spread, jax.device_put(kernel, NamedSharding(mesh, PartitionSpec())))
    for mine, theirs in zip(ours, expected, strict=True):
        np.testing.assert_allclose(jax.device_get(mine), theirs, rtol=1e-4, atol=1e-4)


def test_macs_do_not_depend_on_the_form() -> None:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            del train
            for features, kernel_size, groups in ((16, 5, 4), (16, 3, 16), (128, 3, 4), (64, 1, 1), (64, 9, 1)):
                x = Conv(features, kernel_size, groups=groups)(x)
            return attnjax.layers.resize_bilinear(x, (16, 16))

    per_position = 25 * 4 * 16 + 9 * 16 + 9 * 4 * 128 + 128 * 64 + 81 * 64 * 64
    assert attnjax.count_macs(Net(), (1, 8, 8, 16)) == 64 * per_position


@pytest.mark.parametrize(("channels", "features", "groups", "nearest"), [(16, 16, 5, 4), (48, 36, 8, 6), (3, 4, 2, 1)])
def test_impossible_groups_name_the_nearest_possible(channels: int, features: int, groups: int, nearest: int) -> None:
    message = (
        rf"groups={groups} must divide .*\({channels}\) and features={features}: the nearest that does is {nearest}"
    )
    with pytest.raises(ValueError, match=message):
        Conv(features, groups=groups).init(jax.random.key(0), jnp.zeros((1, 8, 8, channels)))
