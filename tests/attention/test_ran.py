"""The attention module of the Residual Attention Network: its equation, masks, sizes and errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.attention import ResidualAttention, ResidualUnit

SHAPE = (2, 7, 9, 8)
small = partial(ResidualAttention, t=1, bottom=1, post=0, pools=1)


def images(shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape)


def variables(block: ResidualAttention | ResidualUnit, shape: tuple[int, ...] = SHAPE) -> dict[str, Any]:
    return attnjax.init(block, jax.random.key(1), shape)


def without_logits(tree: dict[str, Any]) -> dict[str, Any]:
    """The same variables with a mask head whose logits are 0."""
    head = {"kernel": jnp.zeros_like(tree["params"]["mask_conv2"]["kernel"])}
    return {**tree, "params": tree["params"] | {"mask_conv2": head}}


def trunk(tree: dict[str, Any], x: jax.Array) -> jax.Array:
    for name in ("pre1", "trunk1"):
        unit = {kind: tree[kind][name] for kind in ("params", "batch_stats")}
        x = ResidualUnit(x.shape[-1]).apply(unit, x, train=False)
    return x


def run(block: ResidualAttention, tree: dict[str, Any], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Output and mask."""
    y, state = jax.jit(partial(block.apply, train=False, mutable=["intermediates"]))(tree, x)
    return y, state["intermediates"]["gate"][0]


def test_a_unit_adds_its_branch_to_the_raw_input() -> None:
    unit, x = ResidualUnit(8), images()
    tree = variables(unit)
    assert sorted(tree["params"]) == ["bn1", "bn2", "bn3", "conv1", "conv2", "conv3"]
    tree["params"]["conv3"]["kernel"] *= 0
    np.testing.assert_array_equal(unit.apply(tree, x, train=False), x)


@pytest.mark.parametrize("unit", [ResidualUnit(16), ResidualUnit(8, stride=2)], ids=["wider", "strided"])
def test_a_projection_sees_the_activated_input(unit: ResidualUnit) -> None:
    tree = variables(unit)
    tree["params"]["conv3"]["kernel"] *= 0
    x = -jnp.abs(images())
    np.testing.assert_array_equal(unit.apply(tree, x, train=False), 0)
    assert unit.apply(tree, x, train=False).shape == jax.eval_shape(lambda: unit.apply(tree, -x, train=False)).shape
    assert np.abs(unit.apply(tree, -x, train=False)).max() > 0


@pytest.mark.parametrize("norm", ["channel", "tanh"])
def test_with_a_mask_of_zero_the_module_is_its_trunk(norm: str) -> None:
    block, x = small(mask_norm=norm), images()
    tree = without_logits(variables(block))
    y, gate = run(block, tree, x)
    np.testing.assert_array_equal(gate, 0)
    np.testing.assert_allclose(y, trunk(tree, x), rtol=1e-5, atol=1e-6)
    naive, _ = run(block.clone(learning="naive"), tree, x)
    np.testing.assert_array_equal(naive, 0)


def test_the_mask_weighs_the_trunk() -> None:
    block, x = small(), images()
    tree = variables(block)
    y, gate = run(block, tree, x)
    assert gate.shape == SHAPE
    np.testing.assert_allclose(y, (1 + gate) * trunk(tree, x), rtol=1e-5, atol=1e-5)
    naive, _ = run(block.clone(learning="naive"), tree, x)
    np.testing.assert_allclose(naive, gate * trunk(tree, x), rtol=1e-5, atol=1e-5)


def test_the_three_masks_are_normalised_as_the_paper_says() -> None:
    block, x = small(), images()
    tree = variables(block)
    masks = {norm: run(block.clone(mask_norm=norm), tree, x)[1] for norm in ("mixed", "channel", "spatial", "tanh")}
    logits = np.log(masks["mixed"]) - np.log1p(-masks["mixed"])
    norms = np.linalg.norm(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(masks["channel"], logits / norms, rtol=1e-3, atol=1e-4)
    mean, deviation = logits.mean((1, 2), keepdims=True), logits.std((1, 2), keepdims=True)
    np.testing.assert_allclose(masks["spatial"], 1 / (1 + np.exp((mean - logits) / deviation)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(masks["tanh"], np.tanh(logits), rtol=1e-3, atol=1e-4)


def shapes(block: ResidualAttention, shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Height and width of what each unit gives."""

    def outputs() -> Any:
        tree = block.init(jax.random.key(0), jnp.zeros(shape), train=False)
        return block.apply(tree, jnp.zeros(shape), train=False, capture_intermediates=True)[1]["intermediates"]

    tree = jax.eval_shape(outputs)
    assert tree["gate"][0].shape == shape
    return {name: value["__call__"][0].shape[1:3] for name, value in tree.items() if name[-1].isdigit()}


def test_sizes_follow_the_input_and_the_kind_of_pool() -> None:
    odd = (1, 15, 22, 8)
    ceil, padded = shapes(ResidualAttention(), odd), shapes(ResidualAttention(pool="padded"), odd)
    levels = [f"mask_down{level}_1" for level in (1, 2, 3)]
    assert [ceil[name] for name in levels] == [(7, 11), (3, 5), (1, 2)]
    assert [padded[name] for name in levels] == [(8, 11), (4, 6), (2, 3)]
    for sizes in (ceil, padded):
        assert all(
            sizes[f"mask_skip{level}"] == sizes[f"mask_up{level}_1"] == sizes[levels[level - 1]] for level in (1, 2)
        )
        assert sizes["pre1"] == sizes["trunk2"] == sizes["post1"] == (15, 22)


@pytest.mark.parametrize("pools", [0, 1, 2, 3])
def test_units_of_each_part_are_as_many_as_asked_for(pools: int) -> None:
    names = set(shapes(ResidualAttention(p=2, t=4, r=3, bottom=4, post=1, pools=pools), (1, 16, 16, 8)))
    heads = {"mask_bn1", "mask_bn2", "mask_conv1", "mask_conv2"}
    levels = range(1, pools)
    expected = {f"pre{i}" for i in (1, 2)} | {f"trunk{i}" for i in (1, 2, 3, 4)} | {"post1"}
    expected |= {f"mask_down{max(pools, 1)}_{i}" for i in (1, 2, 3, 4)} | {f"mask_skip{level}" for level in levels}
    expected |= {f"mask_{part}{level}_{i}" for part in ("down", "up") for level in levels for i in (1, 2, 3)}
    assert names - heads == expected


def test_a_local_mask_is_three_units_at_full_resolution() -> None:
    sizes = shapes(ResidualAttention(mask="local"), (1, 3, 5, 8))
    mask = {name: size for name, size in sizes.items() if name.startswith("mask_down")}
    assert mask == {f"mask_down1_{i}": (3, 5) for i in (1, 2, 3)}
    assert not any(name.startswith(("mask_up", "mask_skip")) for name in sizes)


def test_the_ports_additions_change_the_mask_and_no_parameter() -> None:
    official, port = (ResidualAttention(pools=2, skip=skip) for skip in ("skip", "port"))
    tree, x = variables(official), images()
    gates = [run(block, tree, x)[1] for block in (official, port)]
    assert np.abs(gates[0] - gates[1]).max() > 1e-3


def test_units_may_end_in_a_relu() -> None:
    tree = variables(small(pre_activation=False))
    assert {name for name in tree["params"] if name.startswith("mask_")} == {
        "mask_down1_1",
        "mask_conv1",
        "mask_bn2",
        "mask_conv2",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning": "residual"}, "learning='residual' is not one of 'attention', 'naive'"),
        ({"mask_norm": "f1"}, "mask_norm='f1' is not one of 'mixed', 'channel', 'spatial', 'tanh'"),
        ({"mask": "none"}, "mask='none' is not one of"),
        ({"pool": "same"}, "pool='same' is not one of"),
        ({"skip": "sum"}, "skip='sum' is not one of"),
        ({"t": -1}, "t=-1 must not be negative"),
        ({"bottom": -1}, "bottom=-1 must not be negative"),
        ({"pools": 3}, "pools=3 with pool='ceil' needs maps of at least 8x8, got 7x9"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: small(**options).init(jax.random.key(0), images(), train=False))


def test_features_of_a_unit_must_be_a_multiple_of_four() -> None:
    with pytest.raises(ValueError, match="features=18 must be a positive multiple of 4; the nearest is 16"):
        jax.eval_shape(lambda: ResidualUnit(18).init(jax.random.key(0), images(), train=False))
