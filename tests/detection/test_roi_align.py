"""RoIAlign has two forms, in windows and from whole maps: both are the same function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnjax.detection import map_levels
from attnjax.detection._roi_align import pool_whole
from attnjax.detection._roi_windows import pool_windows

STRIDES = (4, 8, 16)
SIZES = ((60, 100), (30, 50), (15, 25))
"""The finest map exceeds the largest window, the coarsest fits into the second smallest."""
ODD = [[0, 0, 400, 240], [-30, -30, 20, 20], [380, 200, 500, 300], [600, 10, 700, 20], [50, 60, 40, 30], [9, 9, 9, 9]]
"""The whole image, boxes across its edge, one outside, one turned inside out, one without area."""


def regions(rng: np.random.Generator) -> np.ndarray:
    """Boxes of all sizes and shapes, (2, 36, 4)."""
    centres = rng.uniform((0, 0), (400, 240), (2, 30, 2))
    sides = np.exp(rng.uniform(np.log(4), np.log(300), (2, 30, 2)))
    return np.concatenate([np.concatenate([centres - sides / 2, centres + sides / 2], -1), [ODD, ODD]], 1)


@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(0, True), (2, False)])
def test_windows_give_what_whole_maps_give(sampling_ratio: int, aligned: bool):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        maps = [jnp.asarray(rng.normal(size=(2, h, w, 3))) for h, w in SIZES]
        boxes = jnp.asarray(regions(rng))
        weights = jnp.asarray(rng.normal(size=(2, 36, 3, 5, 3)))
        options = (
            boxes,
            map_levels(boxes, STRIDES),
            (3, 5),
            [1 / stride for stride in STRIDES],
            sampling_ratio,
            aligned,
        )

        def outcome(pool: Callable[..., jax.Array]) -> Any:
            def weighted(maps: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
                pooled = pool(maps, *options)
                return (pooled * weights).sum(), pooled

            return jax.jit(jax.grad(weighted, has_aux=True))(maps)

        both = [jax.tree.leaves(outcome(pool)) for pool in (pool_windows, pool_whole)]
    for one, other in zip(*both, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_gradients_of_many_regions_in_half_precision_add_up_in_float32():
    maps = [jnp.ones((1, 8, 8, 2), jnp.bfloat16)]
    boxes = jnp.broadcast_to(jnp.array([0.0, 0.0, 8.0, 8.0]), (1, 1000, 4))
    options = (jnp.zeros((1, 1000), jnp.int32), (1, 1), [1.0], 0, True)

    def total(maps: list[jax.Array]) -> jax.Array:
        return pool_windows(maps, boxes, *options).astype(jnp.float32).sum()

    (gradient,) = jax.jit(jax.grad(total))(maps)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32).sum((0, 1, 2)), 1000, rtol=0.01)
