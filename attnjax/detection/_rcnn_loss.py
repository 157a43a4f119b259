"""The loss of Faster R-CNN and Mask R-CNN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from attnjax._choice import check_choice
from attnjax.detection._detector import full_sizes, map_sizes
from attnjax.detection._masks import mask_targets
from attnjax.detection._matching import NEGATIVE, match, sample
from attnjax.detection._rcnn import FasterRCNN, MaskRCNN
from attnjax.detection._truth import (
    Batch,
    LowQuality,
    apply_frozen,
    box_losses,
    in_padding,
    match_each,
    present_boxes,
    sample_each,
    with_sums,
)
from attnjax.training import Aux, mask_of


@dataclasses.dataclass(frozen=True)
class RCNNLoss:
    """The loss of Faster R-CNN and Mask R-CNN: that of proposals, of regions, and of masks.

    Objectness of sampled anchors: binary cross-entropy; their boxes: smooth L1; both divided by the sampled anchors of
    the batch. Classes of sampled regions, ground-truth boxes among them: cross-entropy; their boxes: smooth L1; both
    divided by the sampled regions of the batch. Masks of the positive regions: the mean binary cross-entropy.

    A batch is that of `RetinaLoss`; for Mask R-CNN it has `masks`, 0 and 1 (b, g, h', w'), of the padded images at any
    resolution. torchvision's masks end with the image: to have its targets, repeat their last row and column once.

    The loss is NaN if a box has a label that is no class. Boxes without area are left out.

    Sums: `loss`, `objectness_loss`, `proposal_loss`, `class_loss`, `box_loss` and, for Mask R-CNN, `mask_loss`, each
    times the images, and `count`, images. In evaluation the outputs are `Detections`, and samples are drawn from a
    fixed key.

    Args:
      anchor_high, anchor_low, anchor_low_quality, anchor_min_quality: how anchors are matched, see `match`.
      anchor_samples, anchor_fraction: how they are sampled in each image, see `sample`.
      region_high: the IoU from which on a region is positive; the others are negative.
      region_low_quality: see `match`; `"asking"` is that of mmdetection's Mask R-CNN: of several boxes that overlap a
        region enough, the one whose best region it is takes it.
      region_samples, region_fraction: how regions are sampled in each image.
      anchor_beta, region_beta: see `smooth_l1`; 0 is L1.
      binary_masks: see `mask_targets`, as `aligned` is of the net.
      padding_anchors: see `RetinaLoss`.

    Raises:
      ValueError: an argument is none of those above, or a batch for Mask R-CNN has no masks.

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
    region_low_quality: LowQuality = "none"
    region_samples: int = 512
    region_fraction: float = 0.25
    anchor_beta: float = 0.0
    region_beta: float = 0.0
    binary_masks: bool = True
    padding_anchors: Literal["ignored", "negative"] = "ignored"

    def __post_init__(self) -> None:
        for name in ("anchor_low_quality", "region_low_quality"):
            check_choice(name, getattr(self, name), ("none", "own", "asking"))
        check_choice("padding_anchors", self.padding_anchors, ("ignored", "negative"))

    @classmethod
    def torchvision(cls) -> RCNNLoss:
        """The loss of torchvision's Faster and Mask R-CNN."""
        return cls(
            anchor_low_quality="own",
            anchor_min_quality=0.0,
            anchor_beta=1 / 9,
            region_beta=1 / 9,
            binary_masks=False,
            padding_anchors="negative",
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

        (anchors, outputs, regions, found), updates = apply_frozen(model, variables, forward, train, rngs)
        terms = self.anchor_terms(of_anchors, outputs["objectness"], outputs["anchor_deltas"], anchors, batch)
        terms |= self.region_terms(model, outputs, regions, batch)
        if "mask_logits" in outputs:
            terms["mask_loss"] = self.mask_term(model, outputs["mask_logits"], regions, batch)
        return with_sums(terms, batch, model.num_classes, outputs if train else found, updates)

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
        matches = match_each(of, batch, anchors)
        draw = partial(sample, size=self.anchor_samples, positive_fraction=self.anchor_fraction)
        used = jnp.bool_(True) if self.padding_anchors == "negative" else ~in_padding(batch, anchors)
        positive, negative = sample_each(draw, key, (matches >= 0) & used, (matches == NEGATIVE) & used)
        counts = mask_of(batch)[:, None]
        positive, sampled = positive & counts, (positive | negative) & counts
        targets = positive.astype(objectness.dtype)
        entropy = optax.sigmoid_binary_cross_entropy(objectness, targets)
        boxes = box_losses(deltas, anchors[None], matches, positive, batch, (1.0, 1.0, 1.0, 1.0), self.anchor_beta)
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
        truth, present = batch["boxes"].astype(proposals.dtype), present_boxes(batch)
        boxes = jnp.concatenate([proposals, truth], axis=1)
        valid = jnp.concatenate([valid, present], axis=1) & mask_of(batch)[:, None]
        high, low_quality = self.region_high, self.region_low_quality
        of = partial(match, high=high, low=high, min_quality=high)
        both = ((partial(of, low_quality=low_quality), proposals), (of, truth))
        matches = jnp.concatenate([match_each(of_each, batch, each) for of_each, each in both], axis=1)
        draw = partial(sample, size=self.region_samples, positive_fraction=self.region_fraction)
        positive, negative = sample_each(draw, key, (matches >= 0) & valid, (matches == NEGATIVE) & valid)
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
        boxes = box_losses(own, regions["boxes"], matches, positive, batch, tuple(model.box_weights), self.region_beta)
        count = jnp.maximum(regions["sampled"].sum(), 1).astype(entropy.dtype)
        return {
            "class_loss": jnp.where(regions["sampled"], entropy, 0).sum() / count,
            "box_loss": boxes.sum() / count,
        }

    def mask_term(self, model: Any, logits: jax.Array, regions: Mapping[str, jax.Array], batch: Batch) -> jax.Array:
        """The term of masks, from the logits (b, p, h, w, m) of the first p regions."""
        if "masks" not in batch:
            raise ValueError(f"Mask R-CNN needs masks (b, g, h, w) in the batch, which has {', '.join(sorted(batch))}")
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
