"""What every attention block promises, whichever paper it comes from."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
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
    SimAM,
    SpatialGate,
    SqueezeExcite,
    TripletAttention,
    identity_start,
)
from attnjax.layers import BatchNorm
from attnjax.models import resnext_unit
from tests.kinds import one_of_each_kind

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
    "SimAM": SimAM(),
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
NORM_GIVEN = {"SpatialGate timm", "CBAM timm light"}
"""Blocks that have been given the constructor of their norm."""
BFLOAT16_ERROR = 0.03
"""Largest error of a bfloat16 output, as a part of the output's largest value."""

every_block = pytest.mark.parametrize("name", BLOCKS)
a_block_of_each_class = pytest.mark.parametrize(
    "name", one_of_each_kind(BLOCKS, lambda name: type(BLOCKS[name]), list(BLOCKS).index)
)


def images(shape: tuple[int, ...] = SHAPE, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape).astype(dtype)


@functools.cache
def recipe_weights(name: str, signed: bool = False) -> dict[str, Any]:
    """Noise everywhere, so that no gate is dead or at its starting value; statistics stay positive."""
    variables = attnjax.init(BLOCKS[name], jax.random.key(0), SHAPE)
    rng = np.random.default_rng(0)

    def noise(path: Any, leaf: jax.Array) -> jax.Array:
        values = 0.02 + 0.1 * np.abs(rng.standard_normal(leaf.shape))
        if signed and path[0].key == "params":
            values *= rng.choice([-1, 1], leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(noise, variables)


@functools.cache
def evaluation(name: str) -> Callable[..., tuple[jax.Array, Any]]:
    """Compiled once for all tests: (variables, x) to the output and the collections as they are afterwards."""
    return jax.jit(partial(BLOCKS[name].apply, train=False, mutable=["params", "batch_stats"]))


def outputs(name: str) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda variables, x: evaluation(name)(variables, x)[0]


@functools.cache
def gradient(name: str, train: bool) -> Callable[..., tuple[tuple[Any, jax.Array], Any]]:
    """Compiled: (variables, x) to gradients of the parameters and x, and the collections as they are afterwards."""

    def loss(params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        collections = ["params", "batch_stats"]
        y, after = BLOCKS[name].apply({"params": params, **state}, x, train=train, mutable=collections)
        return jnp.sum(y * images(y.shape) ** 2), after

    def run(variables: Any, x: jax.Array) -> Any:
        state = {name: value for name, value in variables.items() if name != "params"}
        return jax.grad(loss, (0, 2), has_aux=True)(variables.get("params", {}), state, x)

    return jax.jit(run)


def test_every_public_block_is_here() -> None:
    public = {name for name in attnjax.attention.__all__ if isinstance(getattr(attnjax.attention, name), type)}
    assert {type(block).__name__ for block in BLOCKS.values()} == public - {"Gated"}


@every_block
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shape_is_as_declared_and_type_is_the_inputs(name: str, dtype: Any) -> None:
    y = outputs(name)(recipe_weights(name), images(dtype=dtype))
    chex.assert_shape(y, OUTPUT_SHAPES.get(name, SHAPE))
    assert y.dtype == dtype
    chex.assert_tree_all_finite(y)


@a_block_of_each_class
def test_parameters_are_float32_whatever_the_compute_type(name: str) -> None:
    low = BLOCKS[name].clone(dtype=jnp.bfloat16)
    variables = attnjax.init(low, jax.random.key(0), SHAPE)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} <= {jnp.dtype(jnp.float32)}
    weights = recipe_weights(name, signed=True)
    exact = outputs(name)(weights, images())
    near = jax.jit(partial(low.apply, train=False))(weights, images(dtype=jnp.bfloat16))
    largest = float(np.abs(exact).max())
    np.testing.assert_allclose(near.astype(jnp.float32), exact, rtol=0, atol=BFLOAT16_ERROR * largest)


@a_block_of_each_class
def test_jit_equals_eager_and_traces_once(name: str) -> None:
    block, variables = BLOCKS[name], recipe_weights(name)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(variables: Any, x: jax.Array) -> jax.Array:
        return block.apply(variables, x, train=False)

    run(variables, images())
    np.testing.assert_allclose(
        run(variables, images()), block.apply(variables, images(), train=False), rtol=1e-5, atol=1e-6
    )


@a_block_of_each_class
def test_vmap_equals_the_loop(name: str) -> None:
    variables, stack = recipe_weights(name), images((3, *SHAPE))
    mapped = jax.jit(jax.vmap(partial(BLOCKS[name].apply, train=False), in_axes=(None, 0)))(variables, stack)
    looped = jnp.stack([outputs(name)(variables, x) for x in stack])
    np.testing.assert_allclose(mapped, looped, rtol=1e-5, atol=1e-6)


@a_block_of_each_class
def test_vmap_over_parameters_equals_the_loop(name: str) -> None:
    trees = [jax.tree.map(lambda leaf, scale=scale: leaf * scale, recipe_weights(name)) for scale in (0.5, 1.0)]
    if not jax.tree.leaves(trees):
        pytest.skip("a block without parameters")
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    mapped = jax.jit(jax.vmap(partial(BLOCKS[name].apply, train=False), in_axes=(0, None)))(stacked, images())
    for one, tree in zip(mapped, trees, strict=True):
        np.testing.assert_allclose(one, outputs(name)(tree, images()), rtol=1e-5, atol=1e-6)


@every_block
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    apply = partial(outputs(name), recipe_weights(name))
    np.testing.assert_allclose(apply(images()[:1]), apply(images())[:1], rtol=1e-5, atol=1e-6)


@every_block
def test_permuted_images_give_permuted_outputs(name: str) -> None:
    apply = partial(outputs(name), recipe_weights(name))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(apply(images()[order]), apply(images())[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.full), True], ids=["eval", "train"])
@every_block
def test_finite_gradients_reach_every_parameter_and_the_input(name: str, train: bool) -> None:
    (params, dx), _ = gradient(name, train)(recipe_weights(name), images() / 4)
    chex.assert_tree_all_finite((params, dx))
    assert np.abs(dx).max() > 0
    spared = NO_GRADIENT_IN_TRAINING.get(name) if train else None
    for path, leaf in flatten_dict(params, sep="/").items():
        if spared is None or not re.fullmatch(spared, path):
            assert np.abs(leaf).max() > 0, path


@every_block
def test_evaluation_changes_no_state_and_training_only_batch_stats(name: str) -> None:
    variables = recipe_weights(name)
    _, after = evaluation(name)(variables, images())
    chex.assert_trees_all_equal(after, {k: variables[k] for k in after})
    _, after = gradient(name, True)(variables, images())
    chex.assert_trees_all_equal(after.get("params", {}), variables.get("params", {}))
    for old, new in zip(*(jax.tree.leaves(tree.get("batch_stats")) for tree in (variables, after)), strict=True):
        assert np.any(old != new)


@every_block
def test_all_batch_norms_are_made_by_the_constructor_given(name: str) -> None:
    made = set()

    def norm(**options: Any) -> nn.Module:
        module = BatchNorm(**options)
        made.add(module.path)
        return module

    block = BLOCKS[name].clone(batch_norm=norm) if hasattr(BLOCKS[name], "batch_norm") else BLOCKS[name]
    variables = jax.eval_shape(partial(block.init, train=False), jax.random.key(0), images())
    own = {path[:-1] for path in flatten_dict(variables.get("batch_stats", {}))}
    assert made == (set() if name in NORM_GIVEN else own)


@every_block
def test_identity_start_hands_the_input_through_or_is_refused(name: str) -> None:
    if not hasattr(type(BLOCKS[name]), "identity_parameters"):
        pytest.skip("a part of blocks")
    try:
        variables = identity_start(BLOCKS[name], recipe_weights(name, signed=True), SHAPE)
    except ValueError:
        return
    np.testing.assert_allclose(outputs(name)(variables, images()), images(), rtol=0.01)


@a_block_of_each_class
def test_float64_is_float64_throughout(name: str) -> None:
    x = images()
    low = outputs(name)(recipe_weights(name), x)
    with jax.enable_x64(True):
        wide = BLOCKS[name].clone(dtype=jnp.float64, param_dtype=jnp.float64)
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), recipe_weights(name))
        y = jax.jit(partial(wide.apply, train=False))(variables, x.astype(jnp.float64))
        assert y.dtype == jnp.float64
        error = np.abs(np.asarray(y) - np.asarray(low)).max()
        assert 0 < error < 1e-5 * max(1.0, np.abs(y).max())
