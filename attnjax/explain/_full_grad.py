"""FullGrad: contributions of the input and of all biases of a net."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from attnjax.explain._scale import unit
from attnjax.explain._tap import Layer, Net, maps_and_gradients
from attnjax.explain._target import Target, scorer
from attnjax.layers import at_least_float32, resize_bilinear


def full_grad(net: Net, images: jax.Array, target: Target) -> jax.Array:
    """Adds up |x dy/dx| of the input and |b dy/dz| of all layers z = f(x) + b, (b, h, w) (Srinivas and Fleuret, 2019).

    Each channel is scaled to [0, 1] and resized first. For a batch norm, b is its output for an input of 0.
    """
    parameters, statistics = (flatten_dict(dict(net.variables.get(kind, {}))) for kind in ("params", "batch_stats"))
    every = [layer for layer in net.layers(images) if layer.method == "__call__"]
    layers = [layer for layer in every if (*layer.path, "bias") in parameters]
    _, of_images, of_maps = maps_and_gradients(net, images, layers, scorer(target, len(images)))
    wide = at_least_float32(images.dtype)
    parts = [images.astype(wide) * of_images.astype(wide)]
    for layer, gradient in zip(layers, of_maps, strict=True):
        bias = _bias(layer, parameters, statistics).astype(wide)
        parts.append(bias.reshape(1, 1, 1, -1) * gradient.astype(wide))
    size = (images.shape[1], images.shape[2])
    total = jnp.zeros(images.shape[:3], wide)
    for part in parts:  # resizing is linear, so the channels are added first
        total += resize_bilinear(jnp.sum(unit(jnp.abs(part)), -1, keepdims=True), size, align_corners=False)[..., 0]
    return total


def _bias(layer: Layer, parameters: dict[Any, jax.Array], statistics: dict[Any, jax.Array]) -> jax.Array:
    """Output of the layer for an input of 0."""
    bias, scale = parameters[*layer.path, "bias"], parameters.get((*layer.path, "scale"), jnp.ones(()))
    if (*layer.path, "mean") not in statistics:
        return bias
    mean, var = statistics[*layer.path, "mean"], statistics[*layer.path, "var"]
    return bias - mean * scale * jax.lax.rsqrt(var + layer.epsilon)
