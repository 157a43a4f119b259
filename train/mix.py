"""Mixup and CutMix: a batch mixed with itself, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from train.config import DataConfig


def mix(config: DataConfig, key: jax.Array, images: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mixes each image with the one beside it: x = s x1 + (1 - s) x2, with a share s for the whole batch.

    Mixup takes the same s ~ Beta(a, a) for every pixel. CutMix keeps all but a box, the same in every image, with the
    height, width and area of sqrt(1 - s), sqrt(1 - s) and 1 - s of the image's, cut off at its edges. The targets are
    mixed by the mean share. Where both are set, a fair coin decides for each batch.

    The partner is the neighbour, so that a batch that is spread over devices, an even number of images on each, is
    mixed where it lies. The last of an odd number of images stays as it is.

    Args:
      config: its `mixup` and `cutmix` are the a of the two; 0 switches one off.
      key: decides on s, on the box and between the two.
      images: float (b, h, w, c).
      targets: float (b, n), shares of the classes.

    Returns:
      Images and targets, of the shapes and types they came in.

    References:
      Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018. Yun et al., CutMix, 2019.
    """
    if not (config.mixup or config.cutmix):
        return images, targets
    coin_key, mixup_key, cutmix_key = jax.random.split(key, 3)
    height, width = images.shape[1:3]
    if not config.cutmix:
        kept = _mixup(mixup_key, config.mixup)
    elif not config.mixup:
        kept = _cutmix(cutmix_key, config.cutmix, height, width)
    else:
        both = _mixup(mixup_key, config.mixup), _cutmix(cutmix_key, config.cutmix, height, width)
        kept = jnp.where(jax.random.bernoulli(coin_key), *both)
    return _blend(images, kept[None, :, :, None]), _blend(targets, kept.mean()[None, None])


def _mixup(key: jax.Array, alpha: float) -> jax.Array:
    """Share of every pixel that is kept, float32 (1, 1)."""
    return jax.random.beta(key, alpha, alpha, (1, 1), jnp.float32)


def _cutmix(key: jax.Array, alpha: float, height: int, width: int) -> jax.Array:
    """Share of each pixel that is kept, float32 (h, w): 0 inside of the box, 1 outside."""
    share_key, place_key = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha, dtype=jnp.float32))
    centre = jax.random.uniform(place_key, (2,), jnp.float32)
    rows, columns = (
        jnp.abs((jnp.arange(length, dtype=jnp.float32) + 0.5) / length - middle) < side / 2
        for length, middle in zip((height, width), centre, strict=True)
    )
    return 1 - jnp.outer(rows, columns).astype(jnp.float32)


def _blend(batch: jax.Array, kept: jax.Array) -> jax.Array:
    kept = kept.astype(batch.dtype)
    return kept * batch + (1 - kept) * _neighbours(batch)


def _neighbours(batch: jax.Array) -> jax.Array:
    """Swaps the first and the second, the third and the fourth, and so on."""
    even = len(batch) // 2 * 2
    swapped = batch[:even].reshape(even // 2, 2, *batch.shape[1:])[:, ::-1].reshape(even, *batch.shape[1:])
    return jnp.concatenate([swapped, batch[even:]])
