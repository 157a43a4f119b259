"""RetinaNet's loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.detection._detector import map_sizes
from attnjax.detection._losses import focal_loss
from attnjax.detection._matching import IGNORED, match
from attnjax.detection._retinanet import RetinaNet
from attnjax.detection._truth import (
    Batch,
    LowQuality,
    apply_frozen,
    box_losses,
    in_padding,
    match_each,
    with_sums,
)
from attnjax.training import Aux, mask_of


@dataclasses.dataclass(frozen=True)
class RetinaLoss:
    """RetinaNet's loss: focal loss of all anchors that are not ignored, and smooth L1 of the positive ones' boxes.

    Both are sums over anchors divided by the number of positive anchors, at least 1 for each image: that of the batch
    (mmdetection), or that of each image, with the mean over images (torchvision).

    A batch has normalised `image` (b, h, w, 3), `boxes` in its pixels, floating (b, g, 4), `label`, integers (b, g)
    from 0, and `present`, bool (b, g), which of them are boxes and not padding. Optional are `size`, h, w without
    padding, integers (b, 2), `original_size`, and `mask`, bool (b,): images where it is False are ignored.

    The loss is NaN if a box has a label that is no class. Boxes without area are left out.

    Sums: `loss`, `class_loss` and `box_loss`, each times the images, and `count`, images. In evaluation the outputs are
    `Detections`.

    Args:
      high, low, low_quality, min_quality: see `match`.
      alpha, gamma: see `focal_loss`.
      beta: see `smooth_l1`; 0 is L1.
      denominator: whose positive anchors are counted, `"batch"` or `"image"`.
      padding_anchors: what anchors centred in the padding are, beyond a multiple of 32: `"ignored"` (mmdetection) or
        `"negative"` (torchvision).

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
    padding_anchors: Literal["ignored", "negative"] = "ignored"

    def __post_init__(self) -> None:
        check_choice("denominator", self.denominator, ("batch", "image"))
        check_choice("padding_anchors", self.padding_anchors, ("ignored", "negative"))
        check_choice("low_quality", self.low_quality, ("none", "own", "asking"))

    @classmethod
    def torchvision(cls) -> RetinaLoss:
        """The loss of torchvision's RetinaNet."""
        return cls(low_quality="own", denominator="image", padding_anchors="negative")

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
                found = net.select(batch["image"], maps, outputs, batch.get("size"), batch.get("original_size"))
            return net.anchors_of(batch["image"].shape[1:3], map_sizes(maps)), outputs, found

        (anchors, outputs, found), updates = apply_frozen(model, variables, forward, train, rngs)
        terms = self.terms(outputs["class_logits"], outputs["box_deltas"], jnp.asarray(anchors), batch)
        return with_sums(terms, batch, model.num_classes, outputs if train else found, updates)

    def terms(self, logits: jax.Array, deltas: jax.Array, anchors: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The terms by name, from the outputs of the head and its anchors (k, 4)."""
        anchors = anchors.astype(deltas.dtype)
        of = partial(match, high=self.high, low=self.low, low_quality=self.low_quality, min_quality=self.min_quality)
        matches = match_each(of, batch, anchors)
        counts = mask_of(batch)[:, None]
        used = counts & ~in_padding(batch, anchors) if self.padding_anchors == "ignored" else counts
        positive, ignored = (matches >= 0) & used, (matches == IGNORED) | ~used
        labels = jnp.take_along_axis(batch["label"], jnp.maximum(matches, 0), axis=1)
        targets = jax.nn.one_hot(jnp.where(positive, labels, -1), logits.shape[-1], dtype=logits.dtype)
        focal = focal_loss(logits, targets, alpha=self.alpha, gamma=self.gamma).sum(-1)
        class_sums = jnp.where(ignored, 0, focal).sum(1)
        box_sums = box_losses(deltas, anchors[None], matches, positive, batch, (1.0, 1.0, 1.0, 1.0), self.beta)
        counted = jnp.where(counts[:, 0], jnp.maximum(positive.sum(1), 1), 0)
        if self.denominator == "batch":
            each = jnp.maximum(counted.sum(), 1).astype(focal.dtype)
            return {"class_loss": class_sums.sum() / each, "box_loss": box_sums.sum() / each}
        each = jnp.maximum(counted, 1).astype(focal.dtype)
        images = jnp.maximum(counts.sum(), 1).astype(focal.dtype)
        return {"class_loss": (class_sums / each).sum() / images, "box_loss": (box_sums / each).sum() / images}
