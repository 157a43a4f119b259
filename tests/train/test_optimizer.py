"""Learning rates by step, and SGD as PyTorch has it, AdamW and LAMB, by numbers."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train.support import small
from train.config import OptimizerConfig, ScheduleConfig
from train.config.errors import UserError
from train.optimizer import _decays, make_optimizer, make_schedule
from train.runs.record import Run

PARAMS = {
    "conv": {"kernel": np.asarray([[1.0, -2.0], [0.5, 3.0]], np.float32)},
    "bn": {"scale": np.asarray([1.0, 2.0], np.float32), "bias": np.asarray([0.1, -0.1], np.float32)},
}


def gradients(step: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), PARAMS)


@pytest.fixture
def _as_optax_promotes() -> Iterator[None]:
    """Adam's correction of its means raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def rates(config: ScheduleConfig, steps: int, at: list[int], peak: float = 0.4) -> list[float]:
    schedule = make_schedule(config, peak, steps)
    return [float(schedule(step)) for step in at]


def test_a_constant_rate_stays():
    assert rates(ScheduleConfig("constant"), 100, [0, 50, 99]) == pytest.approx([0.4] * 3)


def test_the_rate_falls_along_half_a_cosine():
    expected = [0.2 * (1 + math.cos(math.pi * step / 100)) for step in (0, 25, 50, 99, 100)]
    assert rates(ScheduleConfig("cosine"), 100, [0, 25, 50, 99, 100]) == pytest.approx(expected, abs=1e-7)


def test_the_rate_rises_linearly_in_the_warm_up_and_then_falls():
    at = [0, 1, 5, 10, 55, 100]  # 10 steps of warm-up, then a cosine over 90
    expected = [0, 0.04, 0.2, 0.4, 0.2, 0]
    assert rates(ScheduleConfig("cosine", warmup=0.1), 100, at) == pytest.approx(expected, abs=1e-7)


def test_the_rate_drops_at_the_milestones():
    at = [0, 49, 50, 74, 75, 99]
    assert rates(ScheduleConfig("step"), 100, at) == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_milestones_are_fractions_of_the_whole_duration_with_a_warm_up_too():
    config = ScheduleConfig("step", warmup=0.1, milestones=(0.3, 0.6, 0.9), factor=0.5)
    expected = [0, 0.2, 0.4, 0.4, 0.2, 0.2, 0.1, 0.05]
    assert rates(config, 200, [0, 10, 20, 59, 60, 119, 120, 180]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_a_run_of_one_step_has_a_rate(kind: str):
    assert rates(ScheduleConfig(kind), 1, [0]) == pytest.approx([0.4])  # type: ignore[arg-type]


def test_milestones_that_fall_on_one_step_of_a_short_run_all_count():
    assert rates(ScheduleConfig("step", milestones=(0.5, 0.6)), 3, [0, 2]) == pytest.approx([0.4, 0.004])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_updates_are_those_of_pytorch(nesterov: bool, decay_norm_and_bias: bool, clip_norm: float | None):
    config = OptimizerConfig(
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=0.01,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
    )
    schedule = make_schedule(ScheduleConfig("step", milestones=(0.5,)), 0.1, 4)
    optimizer = make_optimizer(config, schedule)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)

    expected = jax.tree.map(lambda leaf: leaf.astype(np.float64), PARAMS)
    buffers = jax.tree.map(np.zeros_like, expected)
    for step in range(4):
        grads = gradients(step)
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)

        norm = math.sqrt(sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(grads)))
        shrink = 1.0 if clip_norm is None else min(1.0, clip_norm / norm)
        for module, leaves in expected.items():
            for name, leaf in leaves.items():
                decay = 0.01 if decay_norm_and_bias or name == "kernel" else 0.0
                grad = grads[module][name] * shrink + decay * leaf
                buffers[module][name] = 0.9 * buffers[module][name] + grad
                change = grad + 0.9 * buffers[module][name] if nesterov else buffers[module][name]
                leaves[name] = leaf - (0.1 if step < 2 else 0.01) * change
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-6, atol=1e-7)


def test_small_gradients_are_not_clipped():
    optimizer = make_optimizer(OptimizerConfig(momentum=0.0, weight_decay=0.0, clip_norm=100.0), lambda step: 1.0)
    updates, _ = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    for update, grad in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients(0)), strict=True):
        np.testing.assert_allclose(update, -grad, rtol=1e-6)


@pytest.mark.parametrize(("decay_norm_and_bias", "expected"), [(True, -0.5), (False, 0.0)])
def test_scale_and_bias_decay_as_the_setting_says(decay_norm_and_bias: bool, expected: float):
    config = OptimizerConfig(momentum=0.0, weight_decay=0.5, decay_norm_and_bias=decay_norm_and_bias)
    optimizer = make_optimizer(config, lambda step: 1.0)
    none = jax.tree.map(np.zeros_like, PARAMS)
    updates, _ = optimizer.update(none, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.5 * PARAMS["conv"]["kernel"])
    for name in ("scale", "bias"):
        np.testing.assert_allclose(updates["bn"][name], expected * PARAMS["bn"][name], rtol=1e-6)


def test_the_decay_leaves_out_exactly_norms_and_biases_of_a_net():
    run = Run(small({"model.name": "cbam_resnet20_cifar"}), tuple("0123456789"), (8, 8, 1), 1437)
    params = run.abstract_state().variables["params"]
    flat, _ = jax.tree_util.tree_flatten_with_path(_decays(params))
    decayed = {path[-1].key for path, decays in flat if decays}
    assert decayed == {"kernel"}
    shapes = dict(jax.tree_util.tree_flatten_with_path(params)[0])
    assert all(len(shapes[path].shape) > 1 for path, decays in flat if decays)


def adaptive(config: OptimizerConfig, rate: float, steps: int) -> dict[str, dict[str, np.ndarray]]:
    """AdamW as Loshchilov and Hutter have it, LAMB as You et al.: decay beside the gradient's part, then the rate."""
    epsilon = {"adamw": 1e-8, "lamb": 1e-6}[config.kind]
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), PARAMS)
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    for step in range(steps):
        grads = gradients(step)
        for module, leaves in params.items():
            for name, leaf in leaves.items():
                grad, one, two = grads[module][name], first[module], second[module]
                one[name] = config.momentum * one[name] + (1 - config.momentum) * grad
                two[name] = config.second_moment * two[name] + (1 - config.second_moment) * grad**2
                mean = one[name] / (1 - config.momentum ** (step + 1))
                square = two[name] / (1 - config.second_moment ** (step + 1))
                decays = config.decay_norm_and_bias or name == "kernel"
                change = mean / (np.sqrt(square) + epsilon) + (config.weight_decay * leaf if decays else 0.0)
                if config.kind == "lamb" and decays:
                    change *= np.linalg.norm(leaf) / np.linalg.norm(change)
                leaves[name] = leaf - rate * change
    return params


@pytest.mark.usefixtures("_as_optax_promotes")
@pytest.mark.parametrize("kind", ["adamw", "lamb"])
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
def test_adamw_and_lamb_take_the_steps_of_their_papers(kind: Literal["adamw", "lamb"], decay_norm_and_bias: bool):
    config = OptimizerConfig(
        kind=kind, momentum=0.8, second_moment=0.95, weight_decay=0.3, decay_norm_and_bias=decay_norm_and_bias
    )
    optimizer = make_optimizer(config, lambda step: jnp.asarray(0.02, jnp.float32))
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    for step in range(4):
        updates, state = optimizer.update(gradients(step), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(adaptive(config, 0.02, 4)), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-6, atol=1e-7)


@pytest.mark.usefixtures("_as_optax_promotes")
def test_lamb_moves_what_starts_at_zero_at_the_full_rate():
    optimizer = make_optimizer(OptimizerConfig(kind="lamb", decay_norm_and_bias=False), lambda step: 0.01)
    params = {"bn": {"scale": jnp.zeros(1)}}
    state = optimizer.init(params)
    for _ in range(10):
        updates, state = optimizer.update({"bn": {"scale": jnp.ones(1)}}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    np.testing.assert_allclose(params["bn"]["scale"], -0.1, rtol=1e-4)


@pytest.mark.usefixtures("_as_optax_promotes")
def test_the_first_step_of_adamw_by_hand():
    config = OptimizerConfig(kind="adamw", weight_decay=0.1)
    optimizer = make_optimizer(config, lambda step: 0.01)
    updates, _ = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    kernel, gradient = PARAMS["conv"]["kernel"], gradients(0)["conv"]["kernel"]
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.01 * (np.sign(gradient) + 0.1 * kernel), rtol=1e-5)


@pytest.mark.usefixtures("_as_optax_promotes")
@pytest.mark.parametrize("kind", ["sgd", "adamw", "lamb"])
def test_a_submodule_learns_at_its_own_rate(kind: Literal["sgd", "adamw", "lamb"]):
    plain = OptimizerConfig(kind=kind, weight_decay=0.1)
    scaled = dataclasses.replace(plain, scaled_module="conv", scaled_by=0.25)
    one, two = (make_optimizer(config, lambda step: 0.01) for config in (plain, scaled))
    states = [one.init(PARAMS), two.init(PARAMS)]
    for step in range(3):
        updates, states[0] = one.update(gradients(step), states[0], PARAMS)
        changed, states[1] = two.update(gradients(step), states[1], PARAMS)
        np.testing.assert_allclose(changed["conv"]["kernel"], 0.25 * updates["conv"]["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(changed["bn"]["scale"], updates["bn"]["scale"])


@pytest.mark.parametrize(("name", "hint"), [("cnov", "did you mean conv?"), ("head", "it has bn, conv")])
def test_a_submodule_that_the_net_has_not_is_refused_with_the_nearest(name: str, hint: str):
    optimizer = make_optimizer(OptimizerConfig(scaled_module=name), lambda step: 0.1)
    with pytest.raises(
        UserError, match=f"optimizer.scaled_module='{name}' is no submodule of the net: {re.escape(hint)}"
    ):
        optimizer.init(PARAMS)
