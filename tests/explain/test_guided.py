"""Guided backpropagation against a net written out by hand, in all the places where a ReLU may stand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attnjax
from attnjax.explain import grad_cam, guided_backprop, guided_grad_cam

RELUS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "jax.nn.relu": nn.relu,
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum, turned": lambda x: jnp.maximum(0, x),
    "in jit": jax.jit(lambda x: nn.relu(2 * x) / 2),
    "in checkpoint": jax.checkpoint(lambda x: nn.relu(2 * x) / 2),
    "in scan": lambda x: jax.lax.scan(lambda x, _: (nn.relu(2 * x) / 2, None), x, length=1)[0],
    "in cond": lambda x: jax.lax.cond(jnp.sum(x) > 1e9, lambda x: x, lambda x: nn.relu(2 * x) / 2, x),
}


class Two(nn.Module):
    """Two layers with a ReLU each."""

    relu: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.relu(nn.Dense(16, name="fc1")(x.reshape(len(x), -1)))
        return nn.Dense(3, name="fc3")(self.relu(nn.Dense(16, name="fc2")(x)))


def noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape))


@pytest.fixture(scope="module")
def variables() -> Any:
    return Two(nn.relu).init(jax.random.key(0), jnp.zeros((1, 4, 3, 2)))


def by_hand(tree: Any, images: np.ndarray, label: int) -> np.ndarray:
    w1, w2, w3 = (np.asarray(tree["params"][f"fc{i}"]["kernel"]) for i in (1, 2, 3))
    x1 = images.reshape(len(images), -1) @ w1
    x2 = np.maximum(x1, 0) @ w2
    g = w3[:, label] * (x2 > 0) * (w3[:, label] > 0)
    g = g @ w2.T
    return (g * (x1 > 0) * (g > 0) @ w1.T).reshape(images.shape)


@pytest.mark.parametrize("relu", RELUS)
def test_gradients_pass_where_they_and_the_input_are_positive(relu: str, variables: Any) -> None:
    images = noise(2, 4, 3, 2)
    run = partial(guided_backprop, Two(RELUS[relu]), variables, target=1)
    expected = by_hand(variables, np.asarray(images), 1)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(run(images), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(jax.jit(run)(images), expected, rtol=1e-5, atol=1e-7)
    one = jax.vmap(lambda image: run(image[None])[0])
    np.testing.assert_allclose(one(images), expected, rtol=1e-5, atol=1e-7)


def test_other_activations_keep_their_gradients(variables: Any) -> None:
    images = noise(2, 4, 3, 2)
    with pytest.raises(ValueError, match="needs a net with ReLUs"):
        guided_backprop(Two(nn.silu), variables, images)
    w1, w2, w3 = (np.asarray(variables["params"][f"fc{i}"]["kernel"]) for i in (1, 2, 3))

    def through(gradient: np.ndarray, x: np.ndarray) -> np.ndarray:
        gate = 1 / (1 + np.exp(-x))
        return gradient * ((x > 0) * (gradient > 0) + gate * (1 + x * (1 - gate)))

    x1 = np.asarray(images).reshape(2, -1) @ w1
    x2 = (np.maximum(x1, 0) + x1 / (1 + np.exp(-x1))) @ w2
    expected = through(through(w3[:, 1], x2) @ w2.T, x1) @ w1.T
    found = guided_backprop(Two(lambda x: nn.relu(x) + nn.silu(x)), variables, images, target=1)
    np.testing.assert_allclose(found, expected.reshape(images.shape), rtol=1e-5, atol=1e-6)


def test_guided_grad_cam_is_the_product_with_the_map() -> None:
    net = attnjax.create_model("cbam_resnet20_cifar", num_classes=10, stage_sizes=(1, 1, 1))
    images = noise(2, 16, 16, 3)
    variables = attnjax.init(net, jax.random.key(0), images.shape)
    target = jnp.array([3, 7])
    both, guided, cam = (
        jax.jit(partial(run, net, target=target, **options))(variables, images)
        for run, options in (
            (guided_grad_cam, {"layer": "stage2"}),
            (guided_backprop, {}),
            (grad_cam, {"layer": "stage2"}),
        )
    )
    assert np.abs(both).max() > 0
    np.testing.assert_allclose(both, guided * cam.map[..., None], rtol=1e-4, atol=1e-7)
