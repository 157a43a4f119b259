"""Batch norm of a batch that is in parts or goes on over a named axis, and how norms are handed on."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.layers import BatchNorm, with_defaults


def _trained(norm: BatchNorm, variables: Any, x: jax.Array) -> tuple[jax.Array, Any, jax.Array]:
    """Output and statistics of a training step, and the gradient of the output's sum of cubes."""

    def loss(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sum(y**3), (y, updates["batch_stats"])

    gradient, (y, stats) = jax.grad(loss, has_aux=True)(x)
    return y, stats, gradient


def test_groups_are_batches_of_their_own_with_mean_running_statistics() -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).gamma(2.0, size=(12, 3, 2, 5)))
        variables = BatchNorm(param_dtype=jnp.float64).init(jax.random.key(0), x, train=False)
        y, stats, gradient = _trained(BatchNorm(groups=4), variables, x)
        parts = [_trained(BatchNorm(), variables, part) for part in jnp.split(x, 4)]
        np.testing.assert_allclose(y, jnp.concatenate([part[0] for part in parts]), rtol=1e-12)
        np.testing.assert_allclose(gradient, jnp.concatenate([part[2] for part in parts]), rtol=1e-9, atol=1e-12)
        for name in ("mean", "var"):
            np.testing.assert_allclose(stats[name], np.mean([part[1][name] for part in parts], 0), rtol=1e-12)
        assert np.abs(y - _trained(BatchNorm(), variables, x)[0]).max() > 0.1


@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap])
def test_norm_over_a_named_axis_sees_the_global_batch(mapping: Any) -> None:
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).gamma(2.0, size=(8, 3, 2, 5)))
        variables = BatchNorm(param_dtype=jnp.float64).init(jax.random.key(0), x, train=False)
        y, stats, gradient = _trained(BatchNorm(), variables, x)
        mapped = mapping(partial(_trained, BatchNorm(axis_name="data"), variables), axis_name="data")
        same = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
        my_y, my_stats, my_gradient = jax.device_get(mapped(x[:, None]))
        same(my_y[:, 0], y)
        same(my_gradient[:, 0], gradient)
        for name, values in stats.items():
            same(my_stats[name], np.tile(values, (8, 1)))


def test_norm_over_a_named_axis_needs_no_axis_but_in_training() -> None:
    x = jnp.ones((2, 3))
    norm = BatchNorm(axis_name="data")
    variables = norm.init(jax.random.key(0), x, train=True)
    np.testing.assert_allclose(norm.apply(variables, x, train=False), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    with pytest.raises(NameError, match="data"):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (3, "groups=3 does not divide the 4 examples of the batch"),
        (0, "groups=0 does not divide the 4 examples of the batch"),
        (4, r"more than one value per channel, got shape \(1, 1, 5\)"),
    ],
)
def test_groups_that_cannot_be_are_named(groups: int, message: str) -> None:
    x = jnp.ones((4, 1, 5))
    norm = BatchNorm(groups=groups)
    variables = norm.init(jax.random.key(0), x, train=True)
    norm.apply(variables, x, train=False)
    with pytest.raises(ValueError, match=message):
        norm.apply(variables, x, train=True, mutable=["batch_stats"])


def test_defaults_do_not_replace_what_a_constructor_has() -> None:
    half = partial(BatchNorm, dtype=jnp.bfloat16)
    made = with_defaults(half, {"dtype": jnp.float32, "param_dtype": jnp.float64}, groups=2, unknown=3)
    assert made.keywords == {"dtype": jnp.bfloat16, "param_dtype": jnp.float64, "groups": 2}
    assert with_defaults(partial(half, groups=4), {}, groups=2).keywords["groups"] == 4
    assert with_defaults(lambda **options: BatchNorm(**options), {}, groups=2).keywords == {}
