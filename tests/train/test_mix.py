"""Mixup and CutMix, by numbers."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import DataConfig
from train.mix import mix

BOTH = DataConfig(mixup=0.4, cutmix=1.0)
EITHER = [DataConfig(mixup=0.4), DataConfig(cutmix=1.0), BOTH]
compiled_mix = jax.jit(mix, static_argnums=0)


def batch(size: int = 6, side: int = 12) -> tuple[jax.Array, jax.Array]:
    """Images that are everywhere the number of their row, and one class for each."""
    images = jnp.broadcast_to(jnp.arange(size, dtype=jnp.float32)[:, None, None, None], (size, side, side + 4, 3))
    return images, jnp.eye(size, dtype=jnp.float32)


def partners(size: int) -> np.ndarray:
    return np.minimum(np.arange(size) ^ 1, size - 1)


def test_nothing_happens_where_neither_is_set():
    images, targets = batch()
    mixed, mixed_targets = mix(DataConfig(), jax.random.key(0), images, targets)
    assert mixed is images
    assert mixed_targets is targets


@pytest.mark.parametrize("config", EITHER)
@pytest.mark.parametrize("size", [6, 5, 1])
def test_targets_have_the_share_of_the_pixels_and_add_up_to_1(config: DataConfig, size: int):
    images, targets = batch(size)
    partner = partners(size)
    for seed in range(20):
        mixed, shares = compiled_mix(config, jax.random.key(seed), images, targets)
        chex.assert_trees_all_equal_shapes_and_dtypes((mixed, shares), (images, targets))
        np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
        own = np.diagonal(shares)
        expected = own * np.arange(size) + (1 - own) * partner
        np.testing.assert_allclose(np.mean(np.asarray(mixed, np.float64), (1, 2, 3)), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(shares[np.arange(size), partner][partner != np.arange(size)], 1 - own[0], atol=1e-6)


def test_mixup_mixes_every_pixel_alike_with_shares_from_the_beta_distribution():
    images, targets = batch()
    drawn = []
    for seed in range(400):
        mixed, shares = compiled_mix(DataConfig(mixup=0.4), jax.random.key(seed), images, targets)
        assert np.ptp(mixed, axis=(1, 2, 3)).max() == 0
        drawn.append(float(shares[0, 0]))
    assert len(set(drawn)) == 400
    assert abs(np.mean(drawn) - 0.5) < 0.04
    assert abs(np.var(drawn) - 0.25 / 1.8) < 0.015  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_cutmix_pastes_one_box_of_the_shape_of_the_image():
    images, targets = batch(side=96)
    areas = []
    for seed in range(100):
        mixed, shares = compiled_mix(DataConfig(cutmix=1.0), jax.random.key(seed), images, targets)
        pasted = np.asarray(mixed[0, ..., 0] == 1)
        rows, columns = (np.flatnonzero(pasted.any(axis)) for axis in (1, 0))
        for line in (rows, columns):
            assert len(line) == 0 or np.ptp(line) == len(line) - 1
        assert pasted.sum() == len(rows) * len(columns)
        np.testing.assert_allclose(shares[0, 1], pasted.mean(), atol=1e-6)
        touches_edge = len(rows) == 0 or rows[0] == 0 or columns[0] == 0 or rows[-1] == 95 or columns[-1] == 99
        if not touches_edge:
            assert abs(len(rows) / 96 - len(columns) / 100) < 0.03
        areas.append(pasted.mean())
    assert min(areas) < 0.05
    assert max(areas) > 0.5


def test_with_both_a_fair_coin_decides_for_each_batch():
    images, targets = batch()
    spreads = [np.ptp(compiled_mix(BOTH, jax.random.key(seed), images, targets)[0][0]) for seed in range(200)]
    uniform = np.mean(np.asarray(spreads) == 0)
    assert 0.4 < uniform < 0.65  # a box of CutMix may be empty


def test_a_batch_that_is_spread_over_devices_is_mixed_where_it_lies():
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))
    images, targets = batch(16)
    key = jax.random.key(0)
    spread = [jax.device_put(value, sharding) for value in (images, targets)]
    compiled = compiled_mix.lower(BOTH, key, *spread).compile()
    assert not any(name in compiled.as_text() for name in ("all-", "collective", "reduce-scatter"))
    whole = compiled_mix(BOTH, key, images, targets)
    chex.assert_trees_all_close(compiled(key, *spread), whole)
    apart = jax.pmap(mix, static_broadcasted_argnums=0, in_axes=(None, None, 0, 0))
    each = apart(BOTH, key, images.reshape(8, 2, 12, 16, 3), targets.reshape(8, 2, 16))
    chex.assert_trees_all_close((each[0].reshape(images.shape), each[1].reshape(targets.shape)), whole)


def test_it_runs_in_a_scan_and_traces_once():
    images, targets = batch()

    @jax.jit
    @chex.assert_max_traces(1)
    def scanned(keys: jax.Array) -> jax.Array:
        return jax.lax.map(lambda key: mix(BOTH, key, images, targets)[1], keys)

    keys = jax.random.split(jax.random.key(0), 5)
    alone = jnp.stack([compiled_mix(BOTH, key, images, targets)[1] for key in keys])
    np.testing.assert_allclose(scanned(keys), alone, atol=1e-6)
    assert len(np.unique(alone[:, 0, 0])) == 5


def test_images_keep_their_type():
    images, targets = batch()
    mixed, shares = mix(DataConfig(mixup=1.0), jax.random.key(0), images.astype(jnp.bfloat16), targets)
    assert (mixed.dtype, shares.dtype) == (jnp.bfloat16, jnp.float32)
