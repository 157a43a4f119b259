"""Insertion and deletion: the score as pixels are inserted or deleted in the order of a map."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.explain._order import check_maps, pixel_ranks
from attnjax.explain._tap import Net, check_images
from attnjax.explain._target import Target, fixed, probabilities


class InsertionDeletion(NamedTuple):
    """Result of `insertion_deletion`, a pytree.

    Attributes:
      insertion: area under the insertion curve, (b,); higher is better.
      deletion: area under the deletion curve, (b,); lower is better.
      insertion_curve, deletion_curve: probability after each step, (b, steps + 1).

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
    r"""Scores maps by the probability of a class as pixels are inserted or deleted in the order of the map.

    With x_k, the image whose k h w / steps highest pixels of the map are inserted or deleted, and p_k, the probability
    of the class: score = sum over k of (p_k + p_(k+1)) / (2 steps), the area under the curve.

    Args:
      model, variables, images, target, **kwargs: as in `grad_cam`. A callable target gives a number instead of a
        probability.
      maps: (b, h, w) of the images' size, any range.
      steps: number of steps, of equally many pixels each.
      insertion: start of insertion: the blurred image (paper), or zeros.
      deletion: end of deletion: zeros (paper), or the blurred image.
      sigma: standard deviation of the Gaussian blur, in pixels.

    Returns:
      An `InsertionDeletion` with both scores and curves.

    Raises:
      ValueError: `maps` are not of the images' size, `steps` or `sigma` is not positive, `insertion` or `deletion` is
        unknown, or `target` does not fit the net's outputs.

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
      Pixels of equal value are ordered in reading order. The paper changes 224 of 224x224 pixels a step. Its code
      truncates the Gaussian of sigma 5 to a kernel of 11x11 pixels; here it is not truncated. Zeros refer to the net's
      input: the mean colour for normalised images.
    """
    check_images(images)
    check_maps(maps, images)
    for name, value in (("steps", steps), ("sigma", sigma)):
        if value <= 0:
            raise ValueError(f"{name}={value} must be positive")
    start, end = _blank("insertion", insertion, images, sigma), _blank("deletion", deletion, images, sigma)
    net = Net(model, variables, kwargs)
    target = fixed(net(images), target)
    order, pixels = pixel_ranks(maps), maps[0].size

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
    """The matrix that blurs an axis; near an edge the kernel is renormalised over the pixels inside."""
    positions = jnp.arange(size, dtype=jnp.float32)
    weights = jnp.exp(-(((positions[:, None] - positions[None, :]) / sigma) ** 2) / 2)
    return (weights / jnp.sum(weights, -1, keepdims=True)).astype(dtype)
