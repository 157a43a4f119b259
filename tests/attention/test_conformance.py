"""What every attention block promises, whichever paper it comes from."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import attnjax.attention
from attnjax.attention import (
    BAM,
    CBAM,
    BAMChannelBranch,
    BAMSpatialBranch,
    ChannelGate,
    ChannelSpatialAttention,
    CoordinateAttention,
    EffectiveSqueezeExcite,
    EfficientChannelAttention,
    GatherExcite,
    GlobalContext,
    PyramidSqueezeAttention,
    ResidualAttention,
    ResidualUnit,
    SelectiveKernel,
    SpatialGate,
    SqueezeExcite,
    TripletAttention,
)
from attnjax.layers import BatchNorm
from attnjax.models import resnext_unit

_before_norm = r"(.*/)?(fc1|reduce_conv|dilated_conv\d)/bias"

BLOCKS: dict[str, nn.Module] = {
    "SqueezeExcite": SqueezeExcite(),
    "SqueezeExcite max, no bias": SqueezeExcite(pool="max", use_bias=False),
    "ChannelGate": ChannelGate(),
    "ChannelGate all pools": ChannelGate(pools=("avg", "max", "lp", "lse")),
    "SpatialGate": SpatialGate(),
    "SpatialGate conv 3, paper": SpatialGate(kernel_size=3, descriptor="conv", norm="none"),
    "CBAM": CBAM(),
    "CBAM spatial first": CBAM(arrangement="spatial_first"),
    "CBAM parallel": CBAM(arrangement="parallel"),
    "CBAM channel only": CBAM(spatial=False),
    "BAM": BAM(),
    "BAM paper": BAM(fuse="sum", norm_placement="end", dilation=2, num_layers=2, num_dilated=1),
    "BAMChannelBranch": BAMChannelBranch(),
    "BAMSpatialBranch": BAMSpatialBranch(),
    "PSA": PyramidSqueezeAttention(groups=(1, 2, 4, 8)),
    "PSA 64, stride 2": PyramidSqueezeAttention(64, (3, 5), (1, 2), stride=2),
    "PSA paper": PyramidSqueezeAttention(32, (3, 5, 7, 9), (1, 2, 4, 8), order="paper", split_input=True),
    "ChannelSpatialAttention": ChannelSpatialAttention(),
    "ChannelSpatialAttention sum": ChannelSpatialAttention(spatial_norm="sum"),
    "ChannelSpatialAttention softmax": ChannelSpatialAttention(spatial_norm="softmax"),
    "SqueezeExcite timm, norm": SqueezeExcite(divisor=8, pool="avg_max", activation=nn.silu, norm="batch"),
    "EffectiveSqueezeExcite": EffectiveSqueezeExcite(),
    "ChannelGate timm light": ChannelGate(pools=("avg_max",), use_bias=False, divisor=1),
    "SpatialGate timm": SpatialGate(descriptor="pool_mean_first", norm=BatchNorm),
    "CBAM timm light": CBAM(pools=("avg_max",), use_bias=False, descriptor="pool_average", spatial_norm=BatchNorm),
    "EfficientChannelAttention": EfficientChannelAttention(),
    "EfficientChannelAttention circular": EfficientChannelAttention(kernel_size=7, circular=True, use_bias=True),
    "EfficientChannelAttention hidden": EfficientChannelAttention(hidden=4),
    "GatherExcite": GatherExcite(),
    "GatherExcite 4, largest too": GatherExcite(extent=4, pool="avg_max"),
    "GatherExcite theta": GatherExcite(extent=2, parametrised=True),
    "GatherExcite theta plus": GatherExcite(parametrised=True, use_mlp=True),
    "GlobalContext": GlobalContext(),
    "GlobalContext both": GlobalContext(scale=True, reduction=4),
    "GlobalContext mean": GlobalContext(attention=False, reduction=4),
    "SelectiveKernel": SelectiveKernel(32),
    "SelectiveKernel timm 48, stride 2": SelectiveKernel(48, stride=2, groups=4, divisor=8, split=True),
    "SelectiveKernel undilated": SelectiveKernel(32, (3, 5, 7), dilate=False),
    "CoordinateAttention": CoordinateAttention(),
    "CoordinateAttention timm": CoordinateAttention(24, divisor=8, use_bias=False, skip=True),
    "CoordinateAttention no norm": CoordinateAttention(norm=False),
    "TripletAttention": TripletAttention(),
    "TripletAttention without spatial": TripletAttention(spatial=False, kernel_size=3),
    "ResidualUnit 16, stride 2": ResidualUnit(16, stride=2),
    "ResidualAttention": ResidualAttention(t=1, post=0, bottom=1, pools=2),
    "ResidualAttention port": ResidualAttention(t=1, post=0, pools=1, bottom=1, pool="padded", skip="port"),
    "ResidualAttention NeXt, channel": ResidualAttention(
        partial(resnext_unit, groups=4), t=1, post=0, bottom=1, pools=1, mask_norm="channel", pre_activation=False
    ),
}
SHAPE = (4, 6, 5, 32)
OUTPUT_SHAPES = {
    "BAMChannelBranch": (4, 1, 1, 32),
    "BAMSpatialBranch": (4, 6, 5, 1),
    "PSA 64, stride 2": (4, 3, 3, 64),
    "ResidualUnit 16, stride 2": (4, 3, 3, 16),
    "SelectiveKernel timm 48, stride 2": (4, 3, 3, 48),
}
"""Of the blocks that change the shape."""
NO_GRADIENT_IN_TRAINING = {
    "BAM": _before_norm,
    "BAM paper": r"channel_branch/fc3/bias|spatial_branch/final_conv/bias",
    "BAMChannelBranch": r"fc1/bias",
    "BAMSpatialBranch": _before_norm,
}
"""Biases that a batch norm follows, as patterns of their paths."""

every_block = pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)


def images(shape: tuple[int, ...] = SHAPE, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape).astype(dtype)


def recipe_weights(block: nn.Module) -> dict[str, Any]:
    """Noise everywhere, so that no gate is dead or at its starting value; variances are positive."""
    variables = attnjax.init(block, jax.random.key(0), SHAPE)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)
    noise = [jnp.asarray(0.02 + 0.1 * np.abs(rng.standard_normal(leaf.shape)), leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(tree, noise)


def test_every_public_block_is_here() -> None:
    public = {name for name in attnjax.attention.__all__ if isinstance(getattr(attnjax.attention, name), type)}
    assert {type(block).__name__ for block in BLOCKS.values()} == public


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shape_is_as_declared_and_type_is_the_inputs(name: str, dtype: Any) -> None:
    variables = recipe_weights(BLOCKS[name])
    y = BLOCKS[name].apply(variables, images(dtype=dtype), train=False)
    chex.assert_shape(y, OUTPUT_SHAPES.get(name, SHAPE))
    assert y.dtype == dtype
    chex.assert_tree_all_finite(y)


@every_block
def test_parameters_are_float32_whatever_the_compute_type(block: nn.Module) -> None:
    low = block.clone(dtype=jnp.bfloat16)
    variables = attnjax.init(low, jax.random.key(0), SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype(jnp.float32)}
    exact = block.apply(recipe_weights(block), images(), train=False)
    near = low.apply(recipe_weights(block), images(dtype=jnp.bfloat16), train=False)
    np.testing.assert_allclose(near.astype(jnp.float32), exact, atol=0.05, rtol=0.05)


@every_block
def test_jit_equals_eager_and_traces_once(block: nn.Module) -> None:
    variables = recipe_weights(block)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(variables: Any, x: jax.Array) -> jax.Array:
        return block.apply(variables, x, train=False)

    run(variables, images())
    np.testing.assert_allclose(
        run(variables, images()), block.apply(variables, images(), train=False), rtol=1e-5, atol=1e-6
    )


@every_block
def test_vmap_equals_the_loop(block: nn.Module) -> None:
    variables = recipe_weights(block)
    stack = images((3, *SHAPE))
    apply = partial(block.apply, train=False)
    mapped = jax.vmap(apply, in_axes=(None, 0))(variables, stack)
    looped = jnp.stack([apply(variables, x) for x in stack])
    np.testing.assert_allclose(mapped, looped, rtol=1e-5, atol=1e-6)


@every_block
def test_vmap_over_parameters_equals_the_loop(block: nn.Module) -> None:
    trees = [jax.tree.map(lambda leaf, scale=scale: leaf * scale, recipe_weights(block)) for scale in (0.5, 1.0)]
    if not jax.tree.leaves(trees):
        pytest.skip("a block without parameters")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    apply = partial(block.apply, train=False)
    mapped = jax.vmap(apply, in_axes=(0, None))(stacked, images())
    for one, tree in zip(mapped, trees, strict=True):
        np.testing.assert_allclose(one, apply(tree, images()), rtol=1e-5, atol=1e-6)


@every_block
def test_an_image_does_not_depend_on_its_batch(block: nn.Module) -> None:
    apply = partial(block.apply, recipe_weights(block), train=False)
    np.testing.assert_allclose(apply(images()[:1]), apply(images())[:1], rtol=1e-5, atol=1e-6)


@every_block
def test_permuted_images_give_permuted_outputs(block: nn.Module) -> None:
    apply = partial(block.apply, recipe_weights(block), train=False)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(apply(images()[order]), apply(images())[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", BLOCKS)
def test_finite_gradients_reach_every_parameter_and_the_input(name: str, train: bool) -> None:
    block, variables = BLOCKS[name], recipe_weights(BLOCKS[name])
    state = {name: value for name, value in variables.items() if name != "params"}

    def loss(params: Any, x: jax.Array) -> jax.Array:
        y, _ = block.apply({"params": params, **state}, x, train=train, mutable=["batch_stats"])
        return jnp.sum(y * images(y.shape) ** 2)

    params, dx = jax.grad(loss, (0, 1))(variables.get("params", {}), images() / 4)
    chex.assert_tree_all_finite((params, dx))
    assert np.abs(dx).max() > 0
    spared = NO_GRADIENT_IN_TRAINING.get(name) if train else None
    for path, leaf in flatten_dict(params, sep="/").items():
        if spared is None or not re.fullmatch(spared, path):
            assert np.abs(leaf).max() > 0, path


@every_block
def test_evaluation_changes_no_state_and_training_only_batch_stats(block: nn.Module) -> None:
    variables = recipe_weights(block)
    _, after = block.apply(variables, images(), train=False, mutable=["params", "batch_stats"])
    chex.assert_trees_all_equal(after, {k: variables[k] for k in after})
    _, after = block.apply(variables, images(), train=True, mutable=["params", "batch_stats"])
    chex.assert_trees_all_equal(after.get("params"), variables.get("params"))
    for old, new in zip(*(jax.tree.leaves(tree.get("batch_stats")) for tree in (variables, after)), strict=True):
        assert np.any(old != new)


@every_block
def test_float64_is_float64_throughout(block: nn.Module) -> None:
    with jax.enable_x64(True):
        wide = block.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), recipe_weights(block))
        x = images().astype(jnp.float64)
        y = wide.apply(variables, x, train=False)
        assert y.dtype == jnp.float64
        low = block.apply(recipe_weights(block), images(), train=False)
        error = np.abs(np.asarray(y) - np.asarray(low)).max()
        assert 0 < error < 1e-5
