"""What the losses of detectors share: matching and sampling each image, box losses, frozen parameters, sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from attnjax.detection._box_coder import encode_boxes
from attnjax.detection._boxes import box_iou
from attnjax.detection._losses import smooth_l1
from attnjax.training import Aux, mask_of

LowQuality = Literal["none", "own", "asking"]
Batch = Mapping[str, jax.Array]


def apply_frozen(
    model: Any, variables: Mapping[str, Any], forward: Any, train: bool, rngs: dict[str, jax.Array] | None
) -> tuple[Any, Any]:
    """What `forward` returns with the net's variables, of which frozen ones get no gradient, and new statistics."""
    params = jax.tree.map(
        lambda leaf, frozen: jax.lax.stop_gradient(leaf) if frozen else leaf,
        variables["params"],
        model.frozen(variables["params"]),
    )
    variables = {**variables, "params": params}
    result: Any = model.apply(variables, method=forward, mutable=["batch_stats"] if train else [], rngs=rngs)
    return result


def present_boxes(batch: Batch) -> jax.Array:
    """Which boxes are neither padding nor without area, bool (b, g)."""
    boxes = batch["boxes"]
    return batch["present"] & (boxes[..., 2:] > boxes[..., :2]).all(-1)


def in_padding(batch: Batch, anchors: jax.Array) -> jax.Array:
    """Which anchors (k, 4) are centred beyond the size of each image, rounded up to a multiple of 32, bool (b, k)."""
    if "size" not in batch:
        return jnp.zeros((len(batch["image"]), len(anchors)), bool)
    ends = (-(-batch["size"] // 32) * 32).astype(anchors.dtype)
    x, y = ((anchors[None, :, axis] + anchors[None, :, axis + 2]) / 2 for axis in range(2))
    return (y >= ends[:, :1]) | (x >= ends[:, 1:])


def match_each(of: Any, batch: Batch, boxes: jax.Array) -> jax.Array:
    """Matches of anchors (k, 4), or regions (b, k, 4), with the ground-truth boxes of each image, (b, k)."""
    truth = batch["boxes"].astype(boxes.dtype)
    along = 0 if boxes.ndim == 3 else None
    quality = jax.vmap(box_iou, in_axes=(0, along))(truth, boxes)
    matches: jax.Array = jax.vmap(lambda quality, valid: of(quality, valid=valid))(quality, present_boxes(batch))
    return matches


def sample_each(
    draw: Any, key: jax.Array | None, positive: jax.Array, negative: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws the samples of each image, bool (b, k) each."""
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(positive))
    drawn: tuple[jax.Array, jax.Array] = jax.vmap(draw)(keys, positive, negative)
    return drawn


def box_losses(
    deltas: jax.Array,
    anchors: jax.Array,
    matches: jax.Array,
    positive: jax.Array,
    batch: Batch,
    weights: tuple[float, ...],
    beta: float,
) -> jax.Array:
    """The sum of the positive anchors' box losses in each image, (b,)."""
    truth = batch["boxes"].astype(deltas.dtype)
    anchors = jnp.broadcast_to(anchors, deltas.shape)
    boxes = jnp.take_along_axis(truth, jnp.maximum(matches, 0)[..., None], axis=1)
    used = positive[..., None]
    unit = jnp.broadcast_to(jnp.array([0, 0, 1, 1], deltas.dtype), deltas.shape)
    targets = encode_boxes(jnp.where(used, boxes, unit), jnp.where(used, anchors, unit), weights)
    losses: jax.Array = jnp.where(used, smooth_l1(deltas, targets, beta=beta), 0).sum((1, 2))
    return losses


def with_sums(
    terms: dict[str, jax.Array], batch: Batch, num_classes: int, outputs: Any, updates: Any
) -> tuple[jax.Array, Aux]:
    """The sum of the terms, NaN if a box has a label that is no class, and an `Aux`."""
    loss = sum(terms.values(), start=jnp.zeros((), next(iter(terms.values())).dtype))
    labels = jnp.where(batch["present"], batch["label"], 0)
    loss = jnp.where(((labels >= 0) & (labels < num_classes)).all(), loss, jnp.nan)
    count = mask_of(batch).sum(dtype=jnp.int32)
    sums = {name: value * count.astype(value.dtype) for name, value in {"loss": loss, **terms}.items()}
    return loss, Aux(outputs, updates, {**sums, "count": count})
