"""Scales and resizes maps to the input's size, like pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from attnjax.layers import resize_bilinear


def unit(maps: jax.Array) -> jax.Array:
    """Scales each map (b, h, w, c) to [0, 1]; a constant map becomes 0."""
    maps = maps - jnp.min(maps, (1, 2), keepdims=True)
    return maps / (1e-7 + jnp.max(maps, (1, 2), keepdims=True))


def picture(raw: Sequence[jax.Array], size: Sequence[int]) -> jax.Array:
    """Mean of the positive parts of maps (b, h', w'), each scaled to [0, 1] and resized, (b, h, w) in [0, 1]."""
    resized = [resize_bilinear(unit(jax.nn.relu(x)[..., None]), (size[0], size[1]), align_corners=False) for x in raw]
    return unit(jnp.mean(jnp.stack(resized), 0))[..., 0]
