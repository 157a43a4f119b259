"""The ranking of pixels by a map."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def pixel_ranks(maps: jax.Array) -> jax.Array:
    """Rank of each pixel by descending value, (b, h, w) int32 from 0; ties in reading order."""
    descending = jnp.argsort(maps.reshape(len(maps), -1), axis=-1, descending=True, stable=True)
    return jnp.argsort(descending, axis=-1).reshape(maps.shape).astype(jnp.int32)


def check_maps(maps: jax.Array, images: jax.Array) -> None:
    """Raises a ValueError unless there is one map of the same size for each image."""
    if maps.shape != images.shape[:3]:
        raise ValueError(f"maps {list(maps.shape)} must be (b, h, w) of images {list(images.shape)}")
