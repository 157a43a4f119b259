"""The order in which a map takes the pixels of its image."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def places(maps: jax.Array) -> jax.Array:
    """Place of each pixel when a map falls, (b, h, w) int32 from 0; pixels of equal value in reading order."""
    falling = jnp.argsort(maps.reshape(len(maps), -1), axis=-1, descending=True, stable=True)
    return jnp.argsort(falling, axis=-1).reshape(maps.shape).astype(jnp.int32)


def check_maps(maps: jax.Array, images: jax.Array) -> None:
    """Raises a ValueError unless there is a map of its size for each image."""
    if maps.shape != images.shape[:3]:
        raise ValueError(f"maps {list(maps.shape)} must be (b, h, w) of images {list(images.shape)}")
