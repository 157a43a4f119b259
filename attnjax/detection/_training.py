"""Losses that train RetinaNet, Faster R-CNN and Mask R-CNN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from attnjax._choice import check_choice
from attnjax.detection._box_coder import encode_boxes
from attnjax.detection._boxes import box_iou
from attnjax.detection._detector import full_sizes, map_sizes
from attnjax.detection._losses import focal_loss, smooth_l1
from attnjax.detection._masks import mask_targets
from attnjax.detection._matching import IGNORED, NEGATIVE, match, sample
from attnjax.detection._rcnn import FasterRCNN, MaskRCNN
from attnjax.detection._retinanet import RetinaNet
from attnjax.training import Aux

LowQuality = Literal["none", "own", "asking"]
Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class RetinaLoss:
    """RetinaNet's loss: focal loss of all anchors that are not ignored, and smooth L1 of the positive ones' boxes.

    Both are sums over anchors divided by the number of positive anchors, at least 1: that of the batch (mmdetection),
    or that of each image, with the mean over images (torchvision).

    A batch has normalised `image` (b, h, w, 3), `boxes` in its pixels, floating (b, g, 4), `label`, integers (b, g)
    from 0, and `present`, bool (b, g), which of them are boxes and not padding. Optional are `size`, h, w without
    padding, integers (b, 2), `original_size`, and `mask`, bool (b,): images where it is False are ignored.

    Sums: `loss`, `class_loss` and `box_loss`, each times the images, and `count`, images. In evaluation the outputs are
    `Detections`.

    Args:
      high, low, low_quality, min_quality: see `match`.
      alpha, gamma: see `focal_loss`.
      beta: see `smooth_l1`; 0 is L1.
      denominator: whose positive anchors are counted, `"batch"` or `"image"`.

    Raises:
      ValueError: an argument is none of those above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import attnjax
      >>> from attnjax import Partial
      >>> from attnjax.detection import RetinaLoss, RetinaNet
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = RetinaNet(Partial(ResNet, (1, 1, 1, 1), BasicBlock), num_classes=3, channels=16)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 64, 64, 3))
      >>> batch = {"image": jnp.zeros((1, 64, 64, 3)), "boxes": jnp.array([[[8.0, 8.0, 40.0, 40.0]]]),
      ...          "label": jnp.array([[2]]), "present": jnp.array([[True]])}
      >>> _, aux = jax.eval_shape(lambda: RetinaLoss()(model, variables, batch, train=True))
      >>> sorted(aux.sums)
      ['box_loss', 'class_loss', 'count', 'loss']

    References:
      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    high: float = 0.5
    low: float = 0.4
    low_quality: LowQuality = "asking"
    min_quality: float = 0.0
    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 0.0
    denominator: Literal["batch", "image"] = "batch"

    def __post_init__(self) -> None:
        check_choice("denominator", self.denominator, ("batch", "image"))
        check_choice("low_quality", self.low_quality, ("none", "own", "asking"))

    @classmethod
    def torchvision(cls) -> RetinaLoss:
        """The loss of torchvision's RetinaNet."""
        return cls(low_quality="own", denominator="image")

    def __call__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        batch: Batch,
        *,
        train: bool,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Aux]:
        def forward(net: RetinaNet) -> Any:
            maps = net.maps(batch["image"], batch.get("size"), train=train)
            outputs, found = net.outputs(maps), None
            if not train:
                size = batch["image"].shape[1:3]
                found = net.select(size, maps, outputs, batch.get("size"), batch.get("original_size"))
            return net.anchors_of(batch["image"].shape[1:3], map_sizes(maps)), outputs, found

        (anchors, outputs, found), updates = _apply(model, variables, forward, train, rngs)
        terms = self.terms(outputs["class_logits"], outputs["box_deltas"], jnp.asarray(anchors), batch)
        return _with_sums(terms, batch, outputs if train else found, updates)

    def terms(self, logits: jax.Array, deltas: jax.Array, anchors: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The terms by name, from the outputs of the head and its anchors (k, 4)."""
        anchors = anchors.astype(deltas.dtype)
        of = partial(match, high=self.high, low=self.low, low_quality=self.low_quality, min_quality=self.min_quality)
        matches = _matches(of, batch, anchors)
        counts = _mask(batch)[:, None]
        positive, ignored = (matches >= 0) & counts, (matches == IGNORED) | ~counts
        labels = jnp.take_along_axis(batch["label"], jnp.maximum(matches, 0), axis=1)
        targets = jax.nn.one_hot(jnp.where(positive, labels, -1), logits.shape[-1], dtype=logits.dtype)
        focal = focal_loss(logits, targets, alpha=self.alpha, gamma=self.gamma).sum(-1)
        class_sums = jnp.where(ignored, 0, focal).sum(1)
        box_sums = _box_losses(deltas, anchors[None], matches, positive, batch, (1.0, 1.0, 1.0, 1.0), self.beta)
        counted = positive.sum(1)
        if self.denominator == "batch":
            each = jnp.maximum(counted.sum(), 1).astype(focal.dtype)
            return {"class_loss": class_sums.sum() / each, "box_loss": box_sums.sum() / each}
        each = jnp.maximum(counted, 1).astype(focal.dtype)
        images = jnp.maximum(counts.sum(), 1).astype(focal.dtype)
        return {"class_loss": (class_sums / each).sum() / images, "box_loss": (box_sums / each).sum() / images}


@dataclasses.dataclass(frozen=True)
class RCNNLoss:
    """The loss of Faster R-CNN and Mask R-CNN: that of proposals, of regions, and of masks.

    Objectness of sampled anchors: binary cross-entropy; their boxes: smooth L1; both divided by the sampled anchors of
    the batch. Classes of sampled regions, ground-truth boxes among them: cross-entropy; their boxes: smooth L1; both
    divided by the sampled regions of the batch. Masks of the positive regions: the mean binary cross-entropy.

    A batch is that of `RetinaLoss`; for Mask R-CNN it has `masks`, 0 and 1 (b, g, h', w'), of the padded images at any
    resolution. torchvision's masks end with the image: to have its targets, repeat their last row and column once.

    Sums: `loss`, `objectness_loss`, `proposal_loss`, `class_loss`, `box_loss` and, for Mask R-CNN, `mask_loss`, each
    times the images, and `count`, images. In evaluation the outputs are `Detections`, and samples are drawn from a
    fixed key.

    Args:
      anchor_high, anchor_low, anchor_low_quality, anchor_min_quality: how anchors are matched, see `match`.
      anchor_samples, anchor_fraction: how they are sampled in each image, see `sample`.
      region_high: the IoU from which on a region is positive; the others are negative.
      region_samples, region_fraction: how regions are sampled in each image.
      anchor_beta, region_beta: see `smooth_l1`; 0 is L1.
      binary_masks: see `mask_targets`, as `aligned` is of the net.

    Raises:
      ValueError: an argument is none of those above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import attnjax
      >>> from attnjax import Partial
      >>> from attnjax.detection import FasterRCNN, RCNNLoss
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = FasterRCNN(Partial(ResNet, (1, 1, 1, 1), BasicBlock), num_classes=3, channels=16, box_hidden=32)
      >>> variables = attnjax.init(model, jax.random.key(0), (1, 64, 64, 3))
      >>> batch = {"image": jnp.zeros((1, 64, 64, 3)), "boxes": jnp.array([[[8.0, 8.0, 40.0, 40.0]]]),
      ...          "label": jnp.array([[2]]), "present": jnp.array([[True]])}
      >>> _, aux = jax.eval_shape(lambda: RCNNLoss()(model, variables, batch, train=True))
      >>> sorted(aux.sums)
      ['box_loss', 'class_loss', 'count', 'loss', 'objectness_loss', 'proposal_loss']

    References:
      Ren et al., "Faster R-CNN", NeurIPS 2015; He et al., "Mask R-CNN", ICCV 2017.
    """

    anchor_high: float = 0.7
    anchor_low: float = 0.3
    anchor_low_quality: LowQuality = "asking"
    anchor_min_quality: float = 0.3
    anchor_samples: int = 256
    anchor_fraction: float = 0.5
    region_high: float = 0.5
    region_samples: int = 512
    region_fraction: float = 0.25
    anchor_beta: float = 0.0
    region_beta: float = 0.0
    binary_masks: bool = True

    def __post_init__(self) -> None:
        check_choice("anchor_low_quality", self.anchor_low_quality, ("none", "own", "asking"))

    @classmethod
    def torchvision(cls) -> RCNNLoss:
        """The loss of torchvision's Faster and Mask R-CNN."""
        return cls(
            anchor_low_quality="own", anchor_min_quality=0.0, anchor_beta=1 / 9, region_beta=1 / 9, binary_masks=False
        )

    def __call__(
        self,
        model: Any,
        variables: Mapping[str, Any],
        batch: Batch,
        *,
        train: bool,
        rngs: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Aux]:
        images = batch["image"]
        sizes = batch.get("size", full_sizes(images))
        key = (rngs or {}).get("dropout", jax.random.key(0))
        of_anchors, of_regions = jax.random.split(key)

        def forward(net: FasterRCNN) -> Any:
            maps, found = net.maps(images, sizes, train=train), None
            rpn = net.propose(maps)
            proposals, valid = net.proposals(images.shape[1:3], maps, rpn, sizes, train=train)
            regions = self.regions(of_regions, proposals, valid, batch)
            heads = net.classify(maps, regions["boxes"])
            if isinstance(net, MaskRCNN):
                heads["mask_logits"] = net.segment(maps, regions["boxes"][:, : self._positives(regions["boxes"])])
            if not train:
                found_heads = net.classify(maps, proposals)
                found = net.select(maps, proposals, valid, found_heads, sizes, batch.get("original_size"))
            anchors = net.anchors_of(images.shape[1:3], map_sizes(maps))
            return jnp.asarray(anchors, proposals.dtype), rpn | heads, regions, found

        (anchors, outputs, regions, found), updates = _apply(model, variables, forward, train, rngs)
        terms = self.anchor_terms(of_anchors, outputs["objectness"], outputs["anchor_deltas"], anchors, batch)
        terms |= self.region_terms(model, outputs, regions, batch)
        if "mask_logits" in outputs:
            terms["mask_loss"] = self.mask_term(model, outputs["mask_logits"], regions, batch)
        return _with_sums(terms, batch, outputs if train else found, updates)

    def anchor_terms(
        self, key: jax.Array | None, objectness: jax.Array, deltas: jax.Array, anchors: jax.Array, batch: Batch
    ) -> dict[str, jax.Array]:
        """The terms of proposals, from the outputs of the region proposal network and its anchors (k, 4)."""
        of = partial(
            match,
            high=self.anchor_high,
            low=self.anchor_low,
            low_quality=self.anchor_low_quality,
            min_quality=self.anchor_min_quality,
        )
        matches = _matches(of, batch, anchors)
        draw = partial(sample, size=self.anchor_samples, positive_fraction=self.anchor_fraction)
        positive, negative = _sample_each(draw, key, matches >= 0, matches == NEGATIVE)
        counts = _mask(batch)[:, None]
        positive, sampled = positive & counts, (positive | negative) & counts
        targets = positive.astype(objectness.dtype)
        entropy = optax.sigmoid_binary_cross_entropy(objectness, targets)
        boxes = _box_losses(deltas, anchors[None], matches, positive, batch, (1.0, 1.0, 1.0, 1.0), self.anchor_beta)
        count = jnp.maximum(sampled.sum(), 1).astype(entropy.dtype)
        return {
            "objectness_loss": jnp.where(sampled, entropy, 0).sum() / count,
            "proposal_loss": boxes.sum() / count,
        }

    def regions(
        self, key: jax.Array | None, proposals: jax.Array, valid: jax.Array, batch: Batch
    ) -> dict[str, jax.Array]:
        """Samples regions from proposals (b, k, 4) and ground-truth boxes.

        Returns:
          `boxes` (b, s, 4), the positive ones first; `matches`, the ground-truth box of each, int32 (b, s), -1 where
          negative; and `sampled`, bool (b, s), False where there were not enough.
        """
        truth, present = batch["boxes"].astype(proposals.dtype), batch["present"]
        boxes = jnp.concatenate([proposals, truth], axis=1)
        valid = jnp.concatenate([valid, present], axis=1) & _mask(batch)[:, None]
        matches = _matches(partial(match, high=self.region_high, low=self.region_high), batch, boxes)
        draw = partial(sample, size=self.region_samples, positive_fraction=self.region_fraction)
        positive, negative = _sample_each(draw, key, (matches >= 0) & valid, (matches == NEGATIVE) & valid)
        priority = jnp.where(positive, 2, jnp.where(negative, 1, 0))
        priority, chosen = jax.lax.top_k(priority, min(self.region_samples, boxes.shape[1]))
        return {
            "boxes": jnp.take_along_axis(boxes, chosen[..., None], axis=1),
            "matches": jnp.where(priority == 2, jnp.take_along_axis(matches, chosen, axis=1), NEGATIVE),
            "sampled": priority > 0,
        }

    def region_terms(
        self, model: Any, outputs: Mapping[str, jax.Array], regions: Mapping[str, jax.Array], batch: Batch
    ) -> dict[str, jax.Array]:
        """The terms of regions, from the outputs of the box head."""
        logits, deltas, matches = outputs["class_logits"], outputs["box_deltas"], regions["matches"]
        positive, first = matches >= 0, int(model.background_first)
        labels = jnp.take_along_axis(batch["label"], jnp.maximum(matches, 0), axis=1) + first
        background = 0 if first else logits.shape[-1] - 1
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(positive, labels, background))
        own = jnp.take_along_axis(deltas, jnp.where(positive, labels, 0)[..., None, None], axis=2)[:, :, 0]
        boxes = _box_losses(own, regions["boxes"], matches, positive, batch, tuple(model.box_weights), self.region_beta)
        count = jnp.maximum(regions["sampled"].sum(), 1).astype(entropy.dtype)
        return {
            "class_loss": jnp.where(regions["sampled"], entropy, 0).sum() / count,
            "box_loss": boxes.sum() / count,
        }

    def mask_term(self, model: Any, logits: jax.Array, regions: Mapping[str, jax.Array], batch: Batch) -> jax.Array:
        """The term of masks, from the logits (b, p, h, w, m) of the first p regions."""
        count, masks = logits.shape[1], batch["masks"]
        side = (logits.shape[2], logits.shape[3])
        matches, boxes = regions["matches"][:, :count], regions["boxes"][:, :count]
        positive, index = matches >= 0, jnp.maximum(matches, 0)
        scale = masks.shape[2] / batch["image"].shape[1]
        targets = mask_targets(masks, index, boxes, side, scale=scale, aligned=model.aligned, binary=self.binary_masks)
        labels = jnp.take_along_axis(batch["label"], index, axis=1) + int(model.background_first)
        own = jnp.take_along_axis(logits, labels[..., None, None, None], axis=-1)[..., 0]
        entropy = optax.sigmoid_binary_cross_entropy(own, targets.astype(own.dtype)).mean((2, 3))
        return jnp.where(positive, entropy, 0).sum() / jnp.maximum(positive.sum(), 1).astype(entropy.dtype)

    def _positives(self, boxes: jax.Array) -> int:
        """The most regions of an image that can be positive."""
        return min(int(self.region_samples * self.region_fraction), boxes.shape[1])


def _apply(
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


def _mask(batch: Batch) -> jax.Array:
    return batch.get("mask", jnp.ones(len(batch["image"]), bool))


def _matches(of: Any, batch: Batch, boxes: jax.Array) -> jax.Array:
    """Matches of anchors (k, 4), or regions (b, k, 4), with the ground-truth boxes of each image, (b, k)."""
    truth = batch["boxes"].astype(boxes.dtype)
    along = 0 if boxes.ndim == 3 else None
    quality = jax.vmap(box_iou, in_axes=(0, along))(truth, boxes)
    matches: jax.Array = jax.vmap(lambda quality, valid: of(quality, valid=valid))(quality, batch["present"])
    return matches


def _sample_each(
    draw: Any, key: jax.Array | None, positive: jax.Array, negative: jax.Array
) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0) if key is None else key, len(positive))
    drawn: tuple[jax.Array, jax.Array] = jax.vmap(draw)(keys, positive, negative)
    return drawn


def _box_losses(
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


def _with_sums(terms: dict[str, jax.Array], batch: Batch, outputs: Any, updates: Any) -> tuple[jax.Array, Aux]:
    loss = sum(terms.values(), start=jnp.zeros((), next(iter(terms.values())).dtype))
    count = _mask(batch).sum(dtype=jnp.int32)
    sums = {name: value * count.astype(value.dtype) for name, value in {"loss": loss, **terms}.items()}
    return loss, Aux(outputs, updates, {**sums, "count": count})
