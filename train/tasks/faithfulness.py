"""Faithfulness of class activation maps: the pointing game, insertion and deletion, ROAD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from attnjax.explain import METHODS, grad_cam, insertion_deletion, pointing_game, road

_NAMES = ("insertion", "deletion", "road")
_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the pixels that ROAD removes."""


def score_maps(
    model: nn.Module,
    variables: Mapping[str, Any],
    preprocess: Callable[[jax.Array], jax.Array],
    images: np.ndarray,
    classes: np.ndarray,
    boxes: np.ndarray | None,
    *,
    layer: str,
    batch_size: int = 64,
) -> dict[str, dict[str, float]]:
    """Scores all methods on images, and two baselines that ignore the image: a centred peak and random noise.

    Args:
      model, variables: the net.
      preprocess: turns images into the net's input.
      images: uint8 (n, h, w, c) of the run's size.
      classes: the class to explain in each image, (n,).
      boxes: bounding boxes of the objects, (n, 4), or None if unknown.
      layer: see `attnjax.explain.grad_cam`.
      batch_size: images per batch.

    Returns:
      The mean of each score over the images, by method; `pointing_game` only with boxes.

    Raises:
      ValueError: the net has no such layer.
    """
    batch_size = min(batch_size, len(images))
    score = jax.jit(partial(_scores, model))
    indices = np.arange(-(-len(images) // batch_size) * batch_size).reshape(-1, batch_size)
    table = {}
    for method in tqdm((*METHODS, "centre", "random"), unit="method", leave=False, disable=None):
        make = jax.jit(partial(_maps, model, layer, method))
        rows = []
        for batch in np.minimum(indices, len(images) - 1):  # pads the last batch, to compile only once
            inputs, chosen = preprocess(jnp.asarray(images[batch])), classes[batch]
            maps = make(variables, inputs, chosen)
            hits = {} if boxes is None else {"pointing_game": pointing_game(maps, boxes[batch])}
            rows.append(hits | dict(zip(_NAMES, score(variables, inputs, maps, chosen), strict=True)))
        table[method] = {
            name: float(np.concatenate([row[name] for row in rows])[: len(images)].mean()) for name in rows[0]
        }
    return table


def _maps(
    model: nn.Module, layer: str, method: str, variables: Mapping[str, Any], images: jax.Array, classes: jax.Array
) -> jax.Array:
    shape = images.shape[:3]
    if method == "random":
        return jax.random.uniform(jax.random.key(0), shape)
    if method == "centre":
        down, across = (jnp.square(jnp.arange(side, dtype=jnp.float32) - side // 2) for side in shape[1:])
        return jnp.broadcast_to(-(down[:, None] + across[None, :])[None], shape)
    return grad_cam(model, variables, images, layer=layer, target=classes, method=method).map


def _scores(
    model: nn.Module, variables: Mapping[str, Any], images: jax.Array, maps: jax.Array, classes: jax.Array
) -> tuple[jax.Array, ...]:
    """Scores of each image, in the order of `_NAMES`."""
    given = (model, variables, images, maps, classes)
    areas = insertion_deletion(*given)
    return areas.insertion, areas.deletion, road(*given, shares=_SHARES).score
