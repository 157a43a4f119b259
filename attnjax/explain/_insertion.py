"""Insertion and deletion: what pixels do to the score when they come or go in the order of a map."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.explain._order import check_maps, places
from attnjax.explain._tap import Net, check_images
from attnjax.explain._target import Target, fixed, probabilities


class InsertionDeletion(NamedTuple):
    """Result of `insertion_deletion`, a pytree.

    Attributes:
      insertion: area under the curve of insertion, (b,): high where a map names first what speaks for the class.
      deletion: the same of deletion, (b,), which is low then.
      insertion_curve, deletion_curve: the probability after each step, (b, steps + 1).

    Example: see `insertion_deletion`.
    """

    insertion: jax.Array
    deletion: jax.Array
    insertion_curve: jax.Array
    deletion_curve: jax.Array


def insertion_deletion(
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    maps: jax.Array,
    target: Target = None,
    *,
    steps: int = 32,
    insertion: Literal["blur", "zero"] = "blur",
    deletion: Literal["zero", "blur"] = "zero",
    sigma: float = 5.0,
    **kwargs: Any,
) -> InsertionDeletion:
    r"""Scores maps by the probability of a class while pixels come, or go, in the order of the map.

    With x_k, the image where the k h w / steps highest pixels of its map are shown (insertion) or gone (deletion), and
    p_k, the probability of the class: score = sum over k of (p_k + p_(k+1)) / (2 steps), the area under the curve.

    Args:
      model, variables, images, target, **kwargs: as in `grad_cam`. A callable target gives a number in place of the
        probability.
      maps: (b, h, w) of the images' size, any range.
      steps: in how many equal parts the pixels come or go.
      insertion: what insertion begins with: the image blurred (paper), or zeros.
      deletion: what deletion ends with: zeros (paper), or the image blurred.
      sigma: of the Gaussian that blurs, in pixels.

    Returns:
      An `InsertionDeletion` of both scores and both curves.

    Raises:
      ValueError: `maps` are not of the images' size, `steps` or `sigma` is not positive, `insertion` or `deletion` is
        none of those, or `target` does not fit the net's outputs.

    Example:
      >>> import flax.linen as nn, jax.numpy as jnp
      >>> from attnjax.explain import insertion_deletion
      >>> class Bright(nn.Module):  # class 1 is certain where the first pixel is bright
      ...     def __call__(self, x):
      ...         return jnp.stack([jnp.zeros(len(x)), 100 * x[:, 0, 0, 0] - 50], -1)
      >>> images, good = jnp.ones((1, 2, 2, 1)), jnp.array([[[1.0, 0.0], [0.0, 0.0]]])
      >>> for maps in (good, -good):
      ...     scores = insertion_deletion(Bright(), {}, images, maps, 1, steps=4, insertion="zero")
      ...     print([round(float(score[0]), 3) for score in (scores.insertion, scores.deletion)])
      [0.875, 0.125]
      [0.125, 0.875]

    References:
      Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.

    Notes:
      Pixels of equal value come in reading order. The paper changes 224 pixels a step, of 224x224; its code blurs with
      a kernel of 11x11 pixels, which cuts the Gaussian of 5 off, here it is whole. Zeros are those of
      the images that the net is given: the mean colour, where images are normalised.
    """
    check_images(images)
    check_maps(maps, images)
    for name, value in (("steps", steps), ("sigma", sigma)):
        if value <= 0:
            raise ValueError(f"{name}={value} must be positive")
    start, end = _blank("insertion", insertion, images, sigma), _blank("deletion", deletion, images, sigma)
    net = Net(model, variables, kwargs)
    target = fixed(net(images), target)
    order, pixels = places(maps), maps[0].size

    def curve(first: jax.Array, rest: jax.Array) -> jax.Array:
        def at(count: jax.Array) -> jax.Array:
            mixed = jnp.where((order < count)[..., None], first, rest)
            return probabilities(net(mixed), target, len(images))

        return jax.lax.map(at, jnp.array([step * pixels // steps for step in range(steps + 1)], jnp.int32)).T

    inserted, deleted = curve(images, start), curve(end, images)
    return InsertionDeletion(_area(inserted), _area(deleted), inserted, deleted)


def _area(values: jax.Array) -> jax.Array:
    return jnp.mean((values[:, 1:] + values[:, :-1]) / 2, -1)


def _blank(name: str, value: str, images: jax.Array, sigma: float) -> jax.Array:
    check_choice(name, value, ("blur", "zero"))
    if value == "zero":
        return jnp.zeros_like(images)
    rows, columns = (_gaussian(size, sigma, images.dtype) for size in images.shape[1:3])
    return jnp.einsum("ij,bjkc,lk->bilc", rows, images, columns)


def _gaussian(size: int, sigma: float, dtype: Any) -> jax.Array:
    """The matrix that blurs an axis; near an edge what lies inside counts for all."""
    positions = jnp.arange(size, dtype=jnp.float32)
    weights = jnp.exp(-(((positions[:, None] - positions[None, :]) / sigma) ** 2) / 2)
    return (weights / jnp.sum(weights, -1, keepdims=True)).astype(dtype)
