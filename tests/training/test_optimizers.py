"""Learning rates by step, and SGD as PyTorch has it, AdamW and LAMB, by numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import attnjax
from attnjax.training import adamw, constant_schedule, cosine_schedule, lamb, sgd, step_schedule

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


def rates(schedule: optax.Schedule, *at: int) -> list[float]:
    return [float(schedule(step)) for step in at]


def test_a_constant_rate_stays():
    assert rates(constant_schedule(0.4), 0, 50, 99) == pytest.approx([0.4] * 3)


def test_the_rate_falls_along_half_a_cosine():
    expected = [0.2 * (1 + math.cos(math.pi * step / 100)) for step in (0, 25, 50, 99, 100)]
    assert rates(cosine_schedule(0.4, 100), 0, 25, 50, 99, 100) == pytest.approx(expected, abs=1e-7)


def test_the_rate_rises_linearly_in_the_warm_up_and_then_falls():
    schedule = cosine_schedule(0.4, 100, warmup=10)  # then a cosine over 90
    assert rates(schedule, 0, 1, 5, 10, 55, 100) == pytest.approx([0, 0.04, 0.2, 0.4, 0.2, 0], abs=1e-7)


def test_the_rate_drops_at_the_milestones():
    schedule = step_schedule(0.4, [50, 75])
    assert rates(schedule, 0, 49, 50, 74, 75, 99) == pytest.approx([0.4, 0.4, 0.04, 0.04, 0.004, 0.004])


def test_milestones_count_from_the_beginning_with_a_warm_up_too():
    schedule = step_schedule(0.4, [60, 120, 180], factor=0.5, warmup=20)
    expected = [0, 0.2, 0.4, 0.4, 0.2, 0.2, 0.1, 0.05]
    assert rates(schedule, 0, 10, 20, 59, 60, 119, 120, 180) == pytest.approx(expected)


def test_warm_ups_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="warmup=-1 must be at least 0"):
        constant_schedule(0.4, warmup=-1)
    with pytest.raises(ValueError, match="warmup=10 must be from 0 to steps=5"):
        cosine_schedule(0.4, 5, warmup=10)
    with pytest.raises(ValueError, match=r"milestones=\(3, 6\) must be at least warmup=4"):
        step_schedule(0.4, [3, 6], warmup=4)


def test_milestones_at_one_step_all_count():
    assert rates(step_schedule(0.4, [2, 2]), 0, 2) == pytest.approx([0.4, 0.004])


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_updates_are_those_of_pytorch(nesterov: bool, decay_norm_and_bias: bool, clip_norm: float | None):
    optimizer = sgd(
        step_schedule(0.1, [2]),
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=0.01,
        decay_norm_and_bias=decay_norm_and_bias,
        clip_norm=clip_norm,
    )
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
    optimizer = sgd(1.0, momentum=0.0, clip_norm=100.0)
    updates, _ = optimizer.update(gradients(0), optimizer.init(PARAMS), PARAMS)
    for update, grad in zip(jax.tree.leaves(updates), jax.tree.leaves(gradients(0)), strict=True):
        np.testing.assert_allclose(update, -grad, rtol=1e-6)


@pytest.mark.parametrize(("decay_norm_and_bias", "expected"), [(True, -0.5), (False, 0.0)])
def test_scale_and_bias_decay_as_the_setting_says(decay_norm_and_bias: bool, expected: float):
    optimizer = sgd(1.0, momentum=0.0, weight_decay=0.5, decay_norm_and_bias=decay_norm_and_bias)
    none = jax.tree.map(np.zeros_like, PARAMS)
    updates, _ = optimizer.update(none, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["conv"]["kernel"], -0.5 * PARAMS["conv"]["kernel"])
    for name in ("scale", "bias"):
        np.testing.assert_allclose(updates["bn"][name], expected * PARAMS["bn"][name], rtol=1e-6)


def test_the_decay_leaves_out_exactly_norms_and_biases_of_a_net():
    model = attnjax.create_model("cbam_resnet20_cifar", num_classes=10, stage_sizes=(1, 1, 1))
    params = attnjax.init(model, jax.random.key(0), (1, 8, 8, 1))["params"]
    optimizer = sgd(1.0, momentum=0.0, weight_decay=0.5, decay_norm_and_bias=False)
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(ones), ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        kernel = path[-1].key == "kernel"
        assert kernel == (update.ndim > 1)
        np.testing.assert_allclose(update, -0.5 if kernel else 0.0)


def adaptive(lamb_: bool, b1: float, b2: float, decay: float, all_decay: bool, rate: float, steps: int) -> Any:
    """AdamW as Loshchilov and Hutter have it, LAMB as You et al.: decay beside the gradient's part, then the rate."""
    epsilon = 1e-6 if lamb_ else 1e-8
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), PARAMS)
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    for step in range(steps):
        grads = gradients(step)
        for module, leaves in params.items():
            for name, leaf in leaves.items():
                grad, one, two = grads[module][name], first[module], second[module]
                one[name] = b1 * one[name] + (1 - b1) * grad
                two[name] = b2 * two[name] + (1 - b2) * grad**2
                mean = one[name] / (1 - b1 ** (step + 1))
                square = two[name] / (1 - b2 ** (step + 1))
                decays = all_decay or name == "kernel"
                change = mean / (np.sqrt(square) + epsilon) + (decay * leaf if decays else 0.0)
                if lamb_ and decays:
                    change *= np.linalg.norm(leaf) / np.linalg.norm(change)
                leaves[name] = leaf - rate * change
    return params


@pytest.mark.usefixtures("_as_optax_promotes")
@pytest.mark.parametrize("make", [adamw, lamb])
@pytest.mark.parametrize("all_decay", [False, True])
def test_adamw_and_lamb_take_the_steps_of_their_papers(make: Any, all_decay: bool):
    optimizer = make(0.02, 0.8, 0.95, weight_decay=0.3, decay_norm_and_bias=all_decay)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    for step in range(4):
        updates, state = optimizer.update(gradients(step), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    expected = adaptive(make is lamb, 0.8, 0.95, 0.3, all_decay, 0.02, 4)
    for one, two in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-6, atol=1e-7)


@pytest.mark.usefixtures("_as_optax_promotes")
def test_lamb_moves_what_starts_at_zero_at_the_full_rate():
    optimizer = lamb(0.01, decay_norm_and_bias=False)
    params = {"bn": {"scale": jnp.zeros(1)}}
    state = optimizer.init(params)
    for _ in range(10):
        updates, state = optimizer.update({"bn": {"scale": jnp.ones(1)}}, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    np.testing.assert_allclose(params["bn"]["scale"], -0.1, rtol=1e-4)


@pytest.mark.usefixtures("_as_optax_promotes")
@pytest.mark.parametrize("make", [sgd, adamw, lamb])
def test_a_submodule_learns_at_its_own_rate(make: Any):
    one, two = make(0.01, weight_decay=0.1), make(0.01, weight_decay=0.1, rate_factors={"conv": 0.25})
    states = [one.init(PARAMS), two.init(PARAMS)]
    for step in range(3):
        updates, states[0] = one.update(gradients(step), states[0], PARAMS)
        changed, states[1] = two.update(gradients(step), states[1], PARAMS)
        np.testing.assert_allclose(changed["conv"]["kernel"], 0.25 * updates["conv"]["kernel"], rtol=1e-6)
        np.testing.assert_array_equal(changed["bn"]["scale"], updates["bn"]["scale"])


@pytest.mark.parametrize(("name", "hint"), [("cnov", "did you mean conv?"), ("head", "it has bn, conv")])
def test_a_submodule_that_the_net_has_not_is_refused_with_the_nearest(name: str, hint: str):
    optimizer = sgd(0.1, rate_factors={name: 0.5})
    with pytest.raises(ValueError, match=f"{name}.*{re.escape(hint)}"):
        optimizer.init(PARAMS)
