"""From the outputs of heads to proposals and detections, with static shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from attnjax.detection._box_coder import decode_boxes
from attnjax.detection._boxes import clip_boxes, has_sides
from attnjax.detection._nms import batched_nms, nms

MAX_CANDIDATES = 4096
"""Best pairs of region and class of an image that non-maximum suppression compares."""


@flax.struct.dataclass
class Detections:
    """Objects found in each image, by decreasing score.

    Attributes:
      boxes: in pixels of the padded images, floating (b, k, 4).
      scores: floating (b, k).
      classes: int32 (b, k), from 0.
      count: int32 (b,), the valid ones of each image; what lies beyond them is 0.
      original_boxes: in pixels of the original images, floating (b, k, 4).
      masks: probabilities within the boxes, floating (b, k, m, m), see `paste_masks`; None without a mask head.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import Detections
      >>> boxes = jnp.zeros((1, 100, 4))
      >>> found = Detections(boxes, jnp.zeros((1, 100)), jnp.zeros((1, 100), int), jnp.zeros(1, int), boxes)
      >>> found.masks is None
      True
    """

    boxes: jax.Array
    scores: jax.Array
    classes: jax.Array
    count: jax.Array
    original_boxes: jax.Array
    masks: Any = None


def select_proposals(
    objectness: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    sizes: jax.Array,
    *,
    counts: Sequence[int],
    candidates: int = 1000,
    proposals: int = 1000,
    nms_threshold: float = 0.7,
    score_threshold: float = 0.0,
    min_side: float = 0.0,
    clamp_both: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Turns the outputs of a region proposal network into proposals.

    Of each map the best `candidates`, decoded and clipped to the image, without those of low scores or short sides; NMS
    in each map; then the best `proposals` of all.

    Args:
      objectness: logits (b, k).
      deltas: differences to the anchors (b, k, 4).
      anchors: (k, 4).
      sizes: h, w of the images without padding, (b, 2).
      counts: anchors of each map; their sum is k.
      candidates, proposals, nms_threshold: as above.
      score_threshold: proposals of a probability below it are dropped.
      min_side: proposals of a side below it, or without area, are dropped.
      clamp_both: see `decode_boxes`.

    Returns:
      Boxes (b, p, 4), scores (b, p) and whether each is valid, bool (b, p), by decreasing score; p is `proposals`, or
      the number of candidates if that is lower.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import select_proposals
      >>> anchors = jnp.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.5], [4.0, 4.0, 9.0, 9.0]])
      >>> boxes, scores, valid = select_proposals(
      ...     jnp.array([[2.0, 1.0, 0.0]]), jnp.zeros((1, 3, 4)), anchors, jnp.array([[8, 8]]), counts=[2, 1])
      >>> boxes[0][valid[0]].tolist()
      [[0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 8.0]]

    References:
      Ren et al., "Faster R-CNN", NeurIPS 2015.
    """

    def of_map(
        objectness: jax.Array, deltas: jax.Array, anchors: jax.Array, size: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits, best = jax.lax.top_k(objectness, min(candidates, len(objectness)))
        boxes = clip_boxes(decode_boxes(deltas[best], anchors[best], clamp_both=clamp_both), size)
        scores = jax.nn.sigmoid(logits)
        valid = _large_enough(boxes, min_side) & (scores >= score_threshold)
        indices, count = nms(boxes, scores, nms_threshold, valid=valid, max_outputs=min(proposals, len(best)))
        kept = jnp.arange(len(indices), dtype=jnp.int32) < count
        return boxes[indices], jnp.where(kept, scores[indices], -1)

    def of_image(objectness: jax.Array, deltas: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
        boxes, scores = _of_all_maps(partial(of_map, size=size), counts, objectness, deltas, anchors)
        scores, best = jax.lax.top_k(scores, min(proposals, len(scores)))
        valid = scores >= 0
        return jnp.where(valid[:, None], boxes[best], 0), jnp.where(valid, scores, 0), valid

    boxes, scores, valid = jax.vmap(of_image)(objectness, deltas, sizes)
    return boxes, scores, valid


def select_from_anchors(
    logits: jax.Array,
    deltas: jax.Array,
    anchors: jax.Array,
    sizes: jax.Array,
    *,
    counts: Sequence[int],
    candidates: int = 1000,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 100,
    min_side: float | None = 0.0,
    clamp_both: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Turns the outputs of RetinaNet's head into detections.

    Of each map the best `candidates` pairs of anchor and class above the threshold, decoded and clipped to the image;
    NMS of each class; then the best `detections`.

    Args:
      logits: (b, k, n).
      deltas: (b, k, 4).
      anchors: (k, 4).
      sizes: h, w of the images without padding, (b, 2).
      counts: anchors of each map; their sum is k.
      candidates, score_threshold, nms_threshold, detections: as above.
      min_side: boxes of a side below it, or without area, are dropped (mmdetection); None keeps all (torchvision).
      clamp_both: see `decode_boxes`.

    Returns:
      Boxes (b, d, 4), scores (b, d), classes (b, d) and the number of valid ones (b,), see `Detections`; d is
      `detections`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import select_from_anchors
      >>> anchors = jnp.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.5]])
      >>> boxes, scores, classes, count = select_from_anchors(
      ...     jnp.array([[[2.0, -9.0], [1.0, 0.0]]]), jnp.zeros((1, 2, 4)), anchors, jnp.array([[8, 8]]), counts=[2])
      >>> classes[0, : count[0]].tolist()
      [0, 1]

    References:
      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """
    classes_of_anchor = logits.shape[-1]

    def of_map(logits: jax.Array, deltas: jax.Array, anchors: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
        best_logits, best = jax.lax.top_k(logits.ravel(), min(candidates, logits.size))
        anchor, classes = best // classes_of_anchor, best % classes_of_anchor
        boxes = clip_boxes(decode_boxes(deltas[anchor], anchors[anchor], clamp_both=clamp_both), size)
        return boxes, jax.nn.sigmoid(best_logits), classes

    def of_image(logits: jax.Array, deltas: jax.Array, size: jax.Array) -> tuple[jax.Array, ...]:
        boxes, scores, classes = _of_all_maps(partial(of_map, size=size), counts, logits, deltas, anchors)
        valid = (scores > score_threshold) & _large_enough(boxes, min_side)
        return _best(boxes, scores, classes, valid, nms_threshold, detections)

    boxes, scores, classes, count = jax.vmap(of_image)(logits, deltas, sizes)
    return boxes, scores, classes, count


def select_from_regions(
    logits: jax.Array,
    deltas: jax.Array,
    regions: jax.Array,
    valid: jax.Array,
    sizes: jax.Array,
    *,
    box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0),
    background_first: bool = False,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 100,
    min_side: float | None = None,
    clamp_both: bool = True,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Turns the outputs of a box head into detections.

    The pairs of region and class above the threshold, decoded and clipped to the image; NMS of each class; then the
    best `detections`.

    Args:
      logits: (b, k, n + 1).
      deltas: (b, k, m, 4), see `BoxHead`.
      regions: (b, k, 4).
      valid: bool (b, k).
      sizes: h, w of the images without padding, (b, 2).
      box_weights: see `encode_boxes`.
      background_first: see `BoxHead`.
      score_threshold, nms_threshold, detections: as above.
      min_side: boxes of a side below it, or without area, are dropped; None keeps all.
      clamp_both: see `decode_boxes`.

    Returns:
      Boxes (b, d, 4), scores (b, d), classes from 0 without background (b, d) and the number of valid ones (b,); d is
      `detections`.

    Example:
      >>> import jax.numpy as jnp
      >>> from attnjax.detection import select_from_regions
      >>> boxes, scores, classes, count = select_from_regions(
      ...     jnp.array([[[0.0, 3.0, 0.0]]]), jnp.zeros((1, 1, 2, 4)), jnp.array([[[0.0, 0.0, 4.0, 4.0]]]),
      ...     jnp.ones((1, 1), bool), jnp.array([[8, 8]]), score_threshold=0.5)
      >>> classes[0, : count[0]].tolist()
      [1]

    References:
      Girshick, "Fast R-CNN", ICCV 2015.

    Notes:
      The best 4096 pairs of an image take part. The result is that of all pairs wherever they leave `detections` boxes
      or all pairs that are left out have scores up to the threshold.
    """
    classes_of_region = logits.shape[-1] - 1
    most = min(MAX_CANDIDATES, logits.shape[1] * classes_of_region)

    def of_image(
        logits: jax.Array, deltas: jax.Array, regions: jax.Array, valid: jax.Array, size: jax.Array
    ) -> tuple[jax.Array, ...]:
        scores = jax.nn.softmax(logits)
        scores = scores[:, 1:] if background_first else scores[:, :-1]
        deltas = deltas[:, 1:] if background_first else deltas
        boxes = clip_boxes(decode_boxes(deltas, regions[:, None], box_weights, clamp_both=clamp_both), size)
        wanted = (scores > score_threshold) & valid[:, None] & _large_enough(boxes, min_side)
        best_scores, best = jax.lax.top_k(jnp.where(wanted, scores, -1).ravel(), most)
        classes = best % classes_of_region
        return _best(boxes.reshape(-1, 4)[best], best_scores, classes, best_scores > 0, nms_threshold, detections)

    boxes, scores, classes, count = jax.vmap(of_image)(logits, deltas, regions, valid, sizes)
    return boxes, scores, classes, count


def _of_all_maps(
    of_map: Callable[..., tuple[jax.Array, ...]], counts: Sequence[int], *arrays: jax.Array
) -> Iterator[jax.Array]:
    """What a function of the anchors of a map gives for each of them, concatenated; the arrays hold those of all."""
    stops = np.cumsum(counts)
    parts = [
        of_map(*(array[stop - count : stop] for array in arrays)) for count, stop in zip(counts, stops, strict=True)
    ]
    return (jnp.concatenate(each) for each in zip(*parts, strict=True))


def _large_enough(boxes: jax.Array, min_side: float | None) -> jax.Array:
    if min_side is None:
        return jnp.ones(boxes.shape[:-1], bool)
    return has_sides(boxes, min_side) & (boxes[..., 2:] > boxes[..., :2]).all(-1)


def _best(
    boxes: jax.Array, scores: jax.Array, classes: jax.Array, valid: jax.Array, threshold: float, size: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    indices, count = batched_nms(boxes, scores, classes, threshold, valid=valid, max_outputs=size)
    kept = jnp.arange(size, dtype=jnp.int32) < count
    take = partial(jnp.take, indices=indices, axis=0)
    boxes = jnp.where(kept[:, None], take(boxes), 0)
    return boxes, jnp.where(kept, take(scores), 0), jnp.where(kept, take(classes), 0).astype(jnp.int32), count
