"""ROAD: the score without the most relevant pixels of a map, and without the least relevant ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from attnjax.explain._order import check_maps, pixel_ranks
from attnjax.explain._tap import Net, check_images
from attnjax.explain._target import Target, fixed, probabilities
from attnjax.layers import at_least_float32

_SHARES = tuple(tenths / 10 for tenths in range(1, 10))


class ROAD(NamedTuple):
    """Result of `road`, a pytree.

    Attributes:
      score: mean over the shares of (least - most) / 2, (b,), in [-1/2, 1/2]; 0 for an uninformative map.
      most: probability of the class without the most relevant pixels, for each share, (b, shares).
      least: probability of the class without the least relevant pixels, (b, shares).

    Example: see `road`.
    """

    score: jax.Array
    most: jax.Array
    least: jax.Array


def road(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    maps: jax.Array,
    target: Target = None,
    *,
    shares: Sequence[float] = _SHARES,
    noise: float = 0.01,
    key: jax.Array | None = None,
    **kwargs: Any,
) -> ROAD:
    r"""Scores maps by the probability of a class after pixels are removed by noisy linear imputation.

    Removed pixels become x_i = sum over j of w_ij x_j / sum over j of w_ij over their neighbours j, removed ones
    included, with w = 1/6 for direct and 1/12 for diagonal neighbours, plus noise. The linear system is solved for each
    image.

    Args:
      model, variables, images, target, **kwargs: as in `grad_cam`. A callable target gives a number instead of a
        probability.
      maps: (b, h, w) of the images' size, any range.
      shares: shares of the pixels to remove, each above 0 and below 1.
      noise: standard deviation of the noise, in the unit of the images.
      key: PRNG key of the noise, which is the same for all images; None is `jax.random.key(0)`.

    Returns:
      A `ROAD` with the score and both probabilities.

    Raises:
      ValueError: `maps` are not of the images' size, a share does not lie between 0 and 1, `noise` is negative, or
        `target` does not fit the net's outputs.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> from attnjax.explain import road
      >>> class Bright(nn.Module):  # class 1 is certain where the first pixel is bright
      ...     def __call__(self, x):
      ...         return jnp.stack([jnp.zeros(len(x)), 100 * x[:, 0, 0, 0] - 50], -1)
      >>> images = good = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)
      >>> [road(Bright(), {}, images, maps[..., 0], 1).score.round(3).tolist() for maps in (good, -good)]
      [[0.5], [-0.5]]

    References:
      Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022.

    Notes:
      The paper reports accuracy over a test set by share and order; the mean accuracy over images
      is `most` and `least` with `target=lambda logits: (logits.argmax(-1) == labels) * 1.0`. The score is that of
      pytorch-grad-cam's ROADCombined. Pixels of equal value are ordered in reading order.
    """
    check_images(images)
    check_maps(maps, images)
    if not shares or not all(0 < share < 1 for share in shares) or noise < 0:
        raise ValueError(f"shares={tuple(shares)} must lie between 0 and 1, and noise={noise} be at least 0")
    net = Net(model, variables, kwargs)
    target = fixed(net(images), target)
    order, pixels = pixel_ranks(maps), maps[0].size
    key = jax.random.key(0) if key is None else key
    wide = images.astype(at_least_float32(images.dtype))
    added = noise * jax.random.normal(key, wide.shape[1:], wide.dtype)

    def without(bounds: tuple[jax.Array, jax.Array]) -> jax.Array:
        removed = (order >= bounds[0]) & (order < bounds[1])
        changed = jnp.where(removed[..., None], jax.vmap(impute)(wide, removed) + added[None], wide)
        return probabilities(net(changed.astype(images.dtype)), target, len(images))

    counts = jnp.array([round(share * pixels) for share in shares], jnp.int32)
    zero, every = jnp.zeros_like(counts), jnp.full_like(counts, pixels)
    most = jax.lax.map(without, (zero, counts)).T
    least = jax.lax.map(without, (every - counts, every)).T
    return ROAD(jnp.mean(least - most, -1) / 2, most, least)


def impute(image: jax.Array, removed: jax.Array) -> jax.Array:
    """Imputes the removed pixels (h, w) of an image (h, w, c) by the weighted means of their neighbours."""
    hole = removed[..., None]
    around = _neighbours(jnp.ones_like(image))

    def system(x: jax.Array) -> jax.Array:
        return jnp.where(hole, around * x - _neighbours(jnp.where(hole, x, 0)), x)

    known = jnp.where(hole, 0, image)
    filled, _ = cg(system, jnp.where(hole, _neighbours(known), 0), maxiter=1000)
    return known + filled


def _neighbours(x: jax.Array) -> jax.Array:
    """Weighted sum of the eight neighbours of each pixel: 1/6 direct, 1/12 diagonal; 0 outside the image."""
    smooth = x
    for axis in (0, 1):
        padded = jnp.pad(smooth, [(1, 1) if axis == a else (0, 0) for a in range(x.ndim)])
        before, after = (jax.lax.slice_in_dim(padded, s, s + x.shape[axis], axis=axis) for s in (0, 2))
        smooth = before + 2 * smooth + after
    return (smooth - 4 * x) / 12
