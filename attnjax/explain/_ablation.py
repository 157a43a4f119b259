"""Gradient-free class activation methods, which run the net once for every channel of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from attnjax.explain._tap import Layer, Net
from attnjax.explain._target import Target, fixed, scores
from attnjax.layers import at_least_float32, resize_bilinear

_IMAGES = 64
"""Number of images in one pass of the net; a whole batch if that is larger."""


def ablation_cam(net: Net, layers: Sequence[Layer], images: jax.Array, target: Target) -> list[jax.Array]:
    """Weights each channel with the share of the score that is lost when it is 0 (Desai and Ramaswamy, WACV 2020)."""
    outputs, maps = net.read(images, layers)
    target = fixed(outputs, target)

    def weights(layer: Layer, x: jax.Array) -> jax.Array:
        def without(channel: jax.Array) -> jax.Array:
            chosen = (jnp.arange(x.shape[-1]) == channel).reshape(1, 1, 1, -1)
            outputs, _ = net.tapped(images, [layer], [jnp.where(chosen, -x, jnp.zeros_like(x))])
            return scores(outputs, target, len(images))

        # -1 keeps all channels, in the same program as the others, so that common rounding errors cancel.
        at_once, channels = _at_once(len(images)), x.shape[-1]
        none = jnp.full(at_once - channels % at_once, -1)
        scored = _for_each_channel(without, jnp.concatenate([none, jnp.arange(channels)]), len(images)).T
        whole, rest = scored[:, :1], scored[:, -channels:]
        return (whole - rest) / jnp.where(whole == 0, jnp.ones_like(whole), whole)

    return [_weighted(x, weights(layer, x)) for layer, x in zip(layers, maps, strict=True)]


def score_cam(net: Net, layers: Sequence[Layer], images: jax.Array, target: Target) -> list[jax.Array]:
    """Weights each channel with the softmax of the scores of images that it masks (Wang et al., CVPRW 2020)."""
    outputs, maps = net.read(images, layers)
    target = fixed(outputs, target)

    def masked(channel: jax.Array) -> jax.Array:
        mask = resize_bilinear(
            channel[..., None].astype(at_least_float32(channel.dtype)), (images.shape[1], images.shape[2])
        )
        low, high = (reduce(mask, (1, 2), keepdims=True) for reduce in (jnp.min, jnp.max))
        mask = (mask - low) / (high - low + 1e-8)
        return scores(net(images * mask.astype(images.dtype)), target, len(images))

    every = [_for_each_channel(masked, jnp.moveaxis(x, -1, 0), len(images)) for x in maps]
    return [_weighted(x, jax.nn.softmax(values.T, axis=-1)) for x, values in zip(maps, every, strict=True)]


def _for_each_channel(function: Callable[[jax.Array], jax.Array], channels: jax.Array, batch: int) -> jax.Array:
    return jax.lax.map(function, channels, batch_size=_at_once(batch))


def _at_once(batch: int) -> int:
    """Number of channels per pass."""
    return max(1, _IMAGES // batch)


def _weighted(x: jax.Array, weights: jax.Array) -> jax.Array:
    wide = at_least_float32(x.dtype)
    return weights.astype(wide)[:, None, None, :] * x.astype(wide)
