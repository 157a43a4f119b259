"""SE and CBAM: their invariants, the options of the ablations, and the errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.attention import (
    CBAM,
    ChannelGate,
    EffectiveSqueezeExcite,
    EfficientChannelAttention,
    SpatialGate,
    SqueezeExcite,
)
from attnjax.layers import BatchNorm, global_pool

SHAPE = (2, 7, 5, 32)


def images(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def apply(block: nn.Module, x: jax.Array, **kwargs: object) -> jax.Array:
    variables = attnjax.init(block, jax.random.key(1), x.shape)
    return block.apply(variables, x, train=False, **kwargs)


def count(block: nn.Module) -> int:
    return attnjax.count_parameters(block, SHAPE)


def test_fresh_spatial_gate_is_one_half_everywhere() -> None:
    np.testing.assert_array_equal(apply(SpatialGate(), images(), method="gate"), np.full((2, 7, 5, 1), 0.5, np.float32))


def test_paper_form_of_the_spatial_gate_has_no_norm() -> None:
    paper = SpatialGate(norm="none")
    gate = apply(paper, images(), method="gate")
    assert list(attnjax.init(paper, jax.random.key(0), SHAPE)) == ["params"]
    assert gate.std() > 0.05


def test_spatial_descriptor_is_max_then_mean() -> None:
    gate = SpatialGate(kernel_size=1, norm="none")
    x = jnp.array([1.0, 2.0, 6.0]).reshape(1, 1, 1, 3)
    kernel = jnp.array([0.1, 1.0]).reshape(1, 1, 2, 1)
    out = gate.apply({"params": {"conv": {"kernel": kernel}}}, x, train=False, method="gate")
    np.testing.assert_allclose(out.item(), 1 / (1 + np.exp(-(0.1 * 6 + 1.0 * 3))), rtol=1e-6)


def test_other_descriptors_are_the_other_order_and_the_average() -> None:
    x, released = images(), SpatialGate(kernel_size=3, norm="none")
    kernel = attnjax.init(released, jax.random.key(0), SHAPE)["params"]["conv"]["kernel"]

    def run(kernel: jax.Array, **options: object) -> jax.Array:
        block = released.clone(**options)
        return block.apply({"params": {"conv": {"kernel": kernel}}}, x, train=False, method="gate")

    np.testing.assert_allclose(run(kernel[:, :, ::-1], descriptor="pool_mean_first"), run(kernel), rtol=1e-5)
    same = jnp.tile(kernel[:, :, :1], (1, 1, 2, 1))
    np.testing.assert_allclose(run(2 * kernel[:, :, :1], descriptor="pool_average"), run(same), rtol=1e-5)


def test_a_constructor_is_taken_as_the_spatial_norm() -> None:
    fresh = attnjax.init(CBAM(spatial_norm=BatchNorm), jax.random.key(0), SHAPE)
    _, after = CBAM(spatial_norm=BatchNorm).apply(fresh, images(), train=True, mutable=["batch_stats"])
    assert fresh["params"]["spatial_gate"]["bn"]["scale"].tolist() == [1.0]
    _, slow = CBAM().apply(fresh, images(), train=True, mutable=["batch_stats"])
    moved = [state["batch_stats"]["spatial_gate"]["bn"]["mean"].item() for state in (after, slow)]
    np.testing.assert_allclose(moved[0], 10 * moved[1], rtol=1e-4)


def test_halfway_between_mean_and_maximum_is_a_pool() -> None:
    x = images()
    halfway = 0.5 * np.mean(x, (1, 2)) + 0.5 * np.max(x, (1, 2))
    np.testing.assert_allclose(global_pool(x, "avg_max"), halfway, rtol=1e-6)
    both = ChannelGate(pools=("avg_max",))
    variables = attnjax.init(both, jax.random.key(0), SHAPE)
    pooled = jnp.asarray(halfway)[:, None, None, :]
    only = ChannelGate(pools=("avg",)).apply(variables, pooled, train=False, method="gate")
    np.testing.assert_allclose(both.apply(variables, x, train=False, method="gate"), only, rtol=1e-6)


def test_one_squashing_function_serves_both_gates() -> None:
    _, sown = CBAM(gate_fn=nn.tanh).apply(
        attnjax.init(CBAM(), jax.random.key(0), SHAPE), images(), train=False, mutable=["intermediates"]
    )
    assert not np.any(sown["intermediates"]["spatial_gate"]["gate"][0])
    assert np.min(sown["intermediates"]["channel_gate"]["gate"][0]) < 0


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        (SqueezeExcite(), 2 * 32 * 2 + 2 + 32),
        (SqueezeExcite(use_bias=False), 2 * 32 * 2),
        (SqueezeExcite(reduction=4), 2 * 32 * 8 + 8 + 32),
        (ChannelGate(), 2 * 32 * 2 + 2 + 32),
        (SpatialGate(), 2 * 49 + 2),
        (SpatialGate(kernel_size=3, norm="none"), 2 * 9),
        (SpatialGate(descriptor="conv"), 32 + 49 + 2),
        (CBAM(), 2 * 32 * 2 + 2 + 32 + 100),
        (CBAM(spatial=False), 2 * 32 * 2 + 2 + 32),
        (CBAM(arrangement="parallel", kernel_size=3, spatial_norm="none"), 2 * 32 * 2 + 2 + 32 + 18),
        (SqueezeExcite(divisor=8), 2 * 32 * 8 + 8 + 32),
        (SqueezeExcite(hidden=5, norm="batch"), 2 * 32 * 5 + 5 + 32 + 10),
        (ChannelGate(hidden=3, use_bias=False), 2 * 32 * 3),
        (CBAM(use_bias=False, divisor=1, descriptor="pool_average", spatial_norm=BatchNorm), 2 * 32 * 2 + 49 + 2),
    ],
)
def test_parameter_counts(block: nn.Module, parameters: int) -> None:
    assert count(block) == parameters


def test_one_mlp_serves_all_pools() -> None:
    assert count(ChannelGate(pools=("avg", "max", "lp", "lse"))) == count(ChannelGate(pools=("avg",)))


def test_channel_gate_adds_the_logits_of_its_pools() -> None:
    x, gate = images(), ChannelGate()
    variables = attnjax.init(gate, jax.random.key(0), SHAPE)

    def logits(*pools: str) -> jax.Array:
        value = ChannelGate(pools=pools).apply(variables, x, train=False, method="gate")
        return jnp.log(value / (1 - value))

    np.testing.assert_allclose(logits("avg", "max"), logits("avg") + logits("max"), atol=1e-5)


def test_arrangements_combine_the_same_two_gates() -> None:
    x = images()
    variables = attnjax.init(CBAM(spatial_norm="none"), jax.random.key(0), SHAPE)

    def run(**options: object) -> jax.Array:
        return CBAM(spatial_norm="none", **options).apply(variables, x, train=False)

    def channel(x: jax.Array) -> jax.Array:
        return ChannelGate().apply({"params": variables["params"]["channel_gate"]}, x, train=False, method="gate")

    def spatial(x: jax.Array) -> jax.Array:
        params = {"params": variables["params"]["spatial_gate"]}
        return SpatialGate(norm="none").apply(params, x, train=False, method="gate")

    y = channel(x) * x
    np.testing.assert_allclose(run(), spatial(y) * y, rtol=1e-6)
    z = spatial(x) * x
    np.testing.assert_allclose(run(arrangement="spatial_first"), channel(z) * z, rtol=1e-6)
    np.testing.assert_allclose(run(arrangement="parallel"), channel(x) * spatial(x) * x, rtol=1e-6)
    assert np.abs(run() - run(arrangement="parallel")).max() > 1e-3


@pytest.mark.parametrize("gate", [nn.sigmoid, nn.relu, nn.tanh])
@pytest.mark.parametrize(("pool", "squeeze"), [("avg", np.mean), ("max", np.max)])
def test_squeeze_excite_is_its_equation(gate: Callable[..., jax.Array], pool: str, squeeze: Callable[..., Any]) -> None:
    x, block = images(), SqueezeExcite(reduction=4, pool=pool, gate_fn=gate)
    variables = attnjax.init(block, jax.random.key(1), SHAPE)
    fc1, fc2 = (variables["params"]["mlp"][name] for name in ("fc1", "fc2"))
    hidden = np.maximum(squeeze(np.asarray(x), axis=(1, 2)) @ fc1["kernel"] + fc1["bias"][None], 0)
    s = gate(hidden @ fc2["kernel"] + fc2["bias"][None])
    np.testing.assert_allclose(block.apply(variables, x, train=False), x * s[:, None, None, :], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "block", [SqueezeExcite(), EffectiveSqueezeExcite(), EfficientChannelAttention(), ChannelGate()]
)
def test_a_channel_gate_is_a_method_and_is_sown(block: nn.Module) -> None:
    variables = attnjax.init(block, jax.random.key(0), SHAPE)
    gate = block.apply(variables, images(), train=False, method="gate")
    assert gate.shape == (2, 1, 1, 32)
    y, sown = block.apply(variables, images(), train=False, mutable=["intermediates"])
    np.testing.assert_array_equal(sown["intermediates"]["gate"][0], gate)
    np.testing.assert_array_equal(y, images() * gate)


def test_gates_are_sown_by_name() -> None:
    variables = attnjax.init(CBAM(), jax.random.key(0), SHAPE)
    _, sown = CBAM().apply(variables, images(), train=False, mutable=["intermediates"])
    shapes = {name: gates["gate"][0].shape for name, gates in sown["intermediates"].items()}
    assert shapes == {"channel_gate": (2, 1, 1, 32), "spatial_gate": (2, 7, 5, 1)}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (SqueezeExcite(reduction=64), "reduction=64 leaves no hidden feature for 32 channels: use 1 to 32"),
        (SqueezeExcite(pool="sum"), "pool='sum' is not one of 'avg', 'max', 'lp', 'lse'"),
        (ChannelGate(pools=()), r"pools=\(\) must name at least one pool"),
        (ChannelGate(pools=("avg", "mean")), "pool='mean' is not one of 'avg', 'max', 'lp', 'lse'"),
        (SpatialGate(kernel_size=4), "kernel_size=4 must be odd"),
        (SpatialGate(descriptor="max"), "descriptor='max' is not one of"),
        (SpatialGate(norm="batch"), "norm='batch' is not one of 'batch_norm', 'none': did you mean 'batch_norm'?"),
        (CBAM(arrangement="serial"), "arrangement='serial' is not one of 'channel_first'"),
    ],
)
def test_wrong_arguments_are_named(block: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: block.init(jax.random.key(0), x, train=False), images())
