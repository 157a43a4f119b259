"""Convolution, norm and pooling: numbers worked out by hand, and the errors."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import attnjax
from attnjax.layers import (
    BatchNorm,
    Constant,
    Conv,
    VarianceScaling,
    global_pool,
    max_along,
    max_pool,
)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "expected"),
    [(224, 7, 2, 1, 112), (57, 3, 2, 1, 29), (8, 1, 2, 1, 4), (14, 3, 1, 4, 14)],
)
def test_convolution_has_the_size_of_torch(size: int, kernel: int, stride: int, dilation: int, expected: int) -> None:
    conv = Conv(4, kernel, stride=stride, dilation=dilation)
    out = jax.eval_shape(lambda x: conv.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, size, size, 3)))
    assert out.shape == (1, expected, expected, 4)


def test_strided_convolution_pads_both_sides() -> None:
    conv = Conv(1, 3, stride=2, kernel_init=Constant(1.0))
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    out, _ = conv.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(out[0, :, :, 0], [[10, 24], [51, 90]])


def test_grouped_convolution_keeps_groups_apart() -> None:
    conv = Conv(4, 1, groups=2, kernel_init=Constant(1.0))
    out, variables = conv.init_with_output(jax.random.key(0), jnp.array([1.0, 2.0, 10.0, 20.0]).reshape(1, 1, 1, 4))
    assert variables["params"]["kernel"].shape == (1, 1, 2, 4)
    assert out.ravel().tolist() == [3.0, 3.0, 30.0, 30.0]


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (Conv(4, 3, groups=2), r"groups=2 must divide the input channels \(3\) and features=4"),
        (Conv(4, 7, padding=0), "needs an input of at least 7 pixels a side, got 5x5"),
    ],
)
def test_impossible_convolutions_say_what_would_work(conv: Conv, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        conv.init(jax.random.key(0), jnp.zeros((1, 5, 5, 3)))


def test_running_variance_is_the_unbiased_one() -> None:
    x = jnp.array([1.0, 2.0, 6.0]).reshape(3, 1)
    norm = BatchNorm(momentum=0.9)
    variables = norm.init(jax.random.key(0), x, train=False)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.3], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [0.9 + 0.1 * 7.0], rtol=1e-6)
    np.testing.assert_allclose(y.ravel(), np.array([-2.0, -1.0, 3.0]) / np.sqrt(14 / 3 + 1e-5), rtol=1e-6)


def test_norm_is_exact_far_from_zero_once_the_running_mean_is_near() -> None:
    rng = np.random.default_rng(0)
    x = (3000 + rng.standard_normal((512, 4))).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x), train=False)
    variables["batch_stats"]["mean"] = jnp.full((4,), 2999.0)
    y, _ = norm.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=1e-3)


def test_norm_of_one_value_per_channel_is_an_error_in_training_only() -> None:
    x = jnp.ones((1, 1, 1, 3))
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    BatchNorm().apply(variables, x, train=False)
    with pytest.raises(ValueError, match=r"more than one value per channel, got shape \(1, 1, 1, 3\)"):
        BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])


def test_bfloat16_input_keeps_float32_statistics() -> None:
    x = jnp.ones((4, 3), jnp.bfloat16)
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert updates["batch_stats"]["mean"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("size", "padding", "ceil_mode", "expected"), [(8, 1, False, 4), (8, 0, True, 4), (7, 0, True, 3)]
)
def test_max_pool_has_the_size_of_torch_and_caffe(size: int, padding: int, ceil_mode: bool, expected: int) -> None:
    assert max_pool(jnp.zeros((1, size, size, 1)), 3, 2, padding, ceil_mode).shape == (1, expected, expected, 1)


def test_max_pool_pads_with_minus_infinity() -> None:
    x = -jnp.arange(1.0, 10.0).reshape(1, 3, 3, 1)
    assert max_pool(x, 3, 2, padding=1)[0, :, :, 0].tolist() == [[-1.0, -2.0], [-4.0, -5.0]]
    assert max_pool(x, 2, 2, ceil_mode=True)[0, :, :, 0].tolist() == [[-1.0, -3.0], [-7.0, -9.0]]


def test_max_pool_says_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="window=3 with padding=0 does not fit into an input of 2 pixels"):
        max_pool(jnp.zeros((1, 2, 2, 1)), 3, 2)


def test_lp_and_lse_pools_are_sums_and_lp_has_no_nan_gradient_at_zero() -> None:
    x = jnp.array([[1.0, 2.0], [2.0, 4.0]]).reshape(1, 2, 2, 1)
    assert global_pool(x, "lp").item() == 5.0
    np.testing.assert_allclose(global_pool(x, "lse").item(), np.log(np.exp([1, 2, 2, 4]).sum()), rtol=1e-6)
    assert jax.grad(lambda x: global_pool(x, "lp").sum())(jnp.zeros((1, 2, 2, 1))).tolist() == [[[[0.0], [0.0]]] * 2]


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gradient_of_the_maximum_goes_to_the_first_one(axis: int) -> None:
    x = jnp.zeros((2, 3, 4)).at[1, 1, 1].set(5.0)
    moved = jnp.moveaxis(jax.grad(lambda x: max_along(x, axis).sum())(x), axis, 0)
    chosen = np.asarray(jnp.moveaxis(x, axis, 0)).argmax(0)
    np.testing.assert_array_equal(moved, np.arange(x.shape[axis])[:, None, None] == chosen[None])
    value, tangent = jax.jvp(lambda x: max_along(x, axis), (x,), (2 * jnp.ones_like(x),))
    np.testing.assert_array_equal(value, np.max(x, axis, keepdims=True))
    np.testing.assert_array_equal(tangent, np.full(value.shape, 2.0))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_numpy_and_jax_draw_from_the_same_distribution(mode: str, distribution: str) -> None:
    initializer = VarianceScaling(2.0, mode, distribution)
    shape = (3, 3, 32, 128)
    ours = initializer.sample(np.random.default_rng(0), shape)
    theirs = np.asarray(initializer(jax.random.key(0), shape))
    deviation = np.sqrt(2 / (9 * (32 if mode == "fan_in" else 128)))
    for draw in (ours, theirs):
        np.testing.assert_allclose([draw.mean(), draw.std()], [0, deviation], atol=0.02 * deviation)
    np.testing.assert_allclose(np.abs(ours).max(), np.abs(theirs).max(), rtol=0.25)


def test_init_agrees_with_linen_in_all_but_the_numbers() -> None:
    model = attnjax.create_model("cbam_resnet20_cifar")
    ours = attnjax.init(model, jax.random.key(0), (1, 32, 32, 3))
    theirs = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), ours) == jax.tree.map(lambda a: (a.shape, a.dtype), theirs)
    gate = ours["params"]["stage1_block0"]["attention"]["spatial_gate"]["bn"]
    assert (gate["scale"].tolist(), gate["bias"].tolist()) == ([0.0], [0.0])
    kernel = np.asarray(ours["params"]["stage3_block1"]["conv2"]["kernel"])
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)


def test_init_depends_on_the_key_alone() -> None:
    model = attnjax.create_model("resnet20_cifar")
    first, same, other = (
        attnjax.init(model, key, (1, 32, 32, 3))
        for key in (jax.random.key(1), jax.random.PRNGKey(1), jax.random.key(2))
    )
    jax.tree.map(np.testing.assert_array_equal, first, same)
    kernels = [tree["params"]["conv1"]["kernel"] for tree in (first, other)]
    assert not np.array_equal(*kernels)


def test_init_under_jit_is_that_of_the_model_in_shards() -> None:
    model = attnjax.models.ResNet((1,), attnjax.models.BasicBlock, 8, widths=(8,), stem="cifar", stem_width=8)
    shape, mesh = (1, 8, 8, 3), jax.make_mesh((8,), ("data",))

    def spread(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*(None,) * (leaf.ndim - 1), "data"))

    make = partial(attnjax.init, model, input_shape=shape)
    shardings = jax.tree.map(spread, jax.eval_shape(make, jax.random.key(0)))
    variables = jax.jit(make, out_shardings=shardings)(jax.random.key(0))
    assert variables["params"]["conv1"]["kernel"].addressable_shards[0].data.shape == (3, 3, 3, 1)
    expected = jax.jit(partial(model.init, train=False))(jax.random.key(0), jnp.zeros(shape))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), variables, expected)


def test_init_leaves_lifted_modules_to_linen() -> None:
    class Ensemble(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            lifted = nn.vmap(Conv, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=8)
            return lifted(64, 3)(x)

    kernel = attnjax.init(Ensemble(), jax.random.key(0), (1, 4, 4, 64))["params"]["VmapConv_0"]["kernel"]
    assert kernel.shape == (8, 3, 3, 64, 64)
    np.testing.assert_allclose(np.std(kernel), np.sqrt(2 / (9 * 64)), rtol=0.02)
