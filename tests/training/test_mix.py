"""Mixup and CutMix, by numbers."""

from __future__ import annotations

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnjax.training import Mixup
from tests.kinds import only_in_full

CLASSES = 16
BOTH = Mixup(CLASSES, mixup=0.4, cutmix=1.0)
EITHER = [Mixup(CLASSES, mixup=0.4), Mixup(CLASSES, cutmix=1.0), BOTH]


@partial(jax.jit, static_argnums=0)
def mix(mixup: Mixup, key: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Mixed images, and shares of the classes."""
    mixed = mixup(key, batch)
    return mixed["image"], mixed["target"]


def batch_of(size: int = 6, side: int = 12) -> dict[str, jax.Array]:
    """Images that are everywhere the number of their row, and one class for each."""
    rows = jnp.arange(size)
    images = jnp.broadcast_to(rows.astype(jnp.float32)[:, None, None, None], (size, side, side + 4, 3))
    return {"image": images, "label": rows}


@pytest.mark.parametrize("mixup", EITHER, ids=str)
@pytest.mark.parametrize("size", [only_in_full(6), 5, 1])
def test_targets_have_the_share_of_the_pixels_and_add_up_to_1(mixup: Mixup, size: int):
    rows = np.arange(size)
    partner = np.minimum(rows ^ 1, size - 1)
    for seed in range(20):
        mixed, shares = mix(mixup, jax.random.key(seed), batch_of(size))
        assert (mixed.shape, mixed.dtype) == ((size, 12, 16, 3), jnp.float32)
        assert (shares.shape, shares.dtype) == ((size, CLASSES), jnp.float32)
        np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-6)
        own = np.asarray(shares)[rows, rows]
        expected = own * rows + (1 - own) * partner
        np.testing.assert_allclose(np.mean(np.asarray(mixed, np.float64), (1, 2, 3)), expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(shares[rows, partner][partner != rows], 1 - own[0], atol=1e-6)


def test_mixup_mixes_every_pixel_alike_with_shares_from_the_beta_distribution():
    drawn = []
    for seed in range(400):
        mixed, shares = mix(EITHER[0], jax.random.key(seed), batch_of())
        assert np.ptp(mixed, axis=(1, 2, 3)).max() == 0
        drawn.append(float(shares[0, 0]))
    assert len(set(drawn)) == 400
    assert abs(np.mean(drawn) - 0.5) < 0.04
    assert abs(np.var(drawn) - 0.25 / 1.8) < 0.015  # of Beta(a, a): 1 / (4 (2 a + 1))


def test_cutmix_pastes_one_box_of_the_shape_of_the_image():
    areas = []
    for seed in range(100):
        mixed, shares = mix(EITHER[1], jax.random.key(seed), batch_of(side=96))
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
    spreads = [np.ptp(mix(BOTH, jax.random.key(seed), batch_of())[0][0]) for seed in range(200)]
    uniform = np.mean(np.asarray(spreads) == 0)
    assert 0.4 < uniform < 0.65  # a box of CutMix may be empty


def test_a_batch_that_is_divided_among_devices_is_mixed_where_it_lies():
    sharding = NamedSharding(Mesh(np.asarray(jax.devices()), ("data",)), PartitionSpec("data"))
    batch, key = batch_of(16), jax.random.key(0)
    divided = jax.device_put(batch, sharding)
    compiled = mix.lower(BOTH, key, divided).compile()
    assert not any(name in compiled.as_text() for name in ("all-", "collective", "reduce-scatter"))
    whole = mix(BOTH, key, batch)
    chex.assert_trees_all_close(compiled(key, divided), whole)
    on_each = jax.tree.map(lambda rows: rows.reshape(8, 2, *rows.shape[1:]), batch)
    apart = jax.pmap(partial(mix, BOTH), in_axes=(None, 0))(key, on_each)
    chex.assert_trees_all_close(jax.tree.map(lambda rows: rows.reshape(16, *rows.shape[2:]), apart), whole)


def test_it_runs_in_a_scan_and_traces_once():
    @jax.jit
    @chex.assert_max_traces(1)
    def scanned(keys: jax.Array) -> jax.Array:
        return jax.lax.map(lambda key: BOTH(key, batch_of())["target"], keys)

    keys = jax.random.split(jax.random.key(0), 5)
    alone = jnp.stack([mix(BOTH, key, batch_of())[1] for key in keys])
    np.testing.assert_allclose(scanned(keys), alone, atol=1e-6)
    assert len(np.unique(alone[:, 0, 0])) == 5


def test_images_keep_their_type():
    batch = batch_of()
    mixed, shares = mix(EITHER[0], jax.random.key(0), batch | {"image": batch["image"].astype(jnp.bfloat16)})
    assert (mixed.dtype, shares.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("options", [{}, {"mixup": -0.1, "cutmix": 1.0}])
def test_shares_out_of_range_are_refused(options: dict[str, float]):
    with pytest.raises(ValueError, match="mixup="):
        Mixup(CLASSES, **options)


@pytest.mark.parametrize("wrong", [{"image": jnp.zeros((4, 8, 8, 3), jnp.uint8)}, {"mask": jnp.ones(4, bool)}])
def test_batches_that_cannot_be_mixed_are_refused(wrong: dict[str, jax.Array]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BOTH(jax.random.key(0), batch_of(4) | wrong)
