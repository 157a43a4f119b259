"""Faster R-CNN and Mask R-CNN."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from attnjax._choice import check_choice
from attnjax.detection._detector import Detector, detected, full_sizes, map_sizes, widened
from attnjax.detection._heads import BoxHead, MaskHead, RPNHead
from attnjax.detection._roi_align import multiscale_roi_align
from attnjax.detection._select import Detections, select_from_regions, select_proposals
from attnjax.layers import at_least_float32

SIZES = ((32,), (64,), (128,), (256,), (512,))
"""Sizes of Faster R-CNN's anchors on P2 to P6."""
ROI_STRIDES = (4, 8, 16, 32)
"""Strides of the maps that regions are pooled from; P6 is for proposals alone."""

RCNN_TORCHVISION = {
    "rounded_anchors": True,
    "anchor_strides": "image",
    "clamp_both": False,
    "train_proposals": 2000,
    "proposal_min_side": 1e-3,
    "sampling_ratio": 2,
    "aligned": False,
    "level_epsilon": "outside",
    "min_side": 0.01,
    "background_first": True,
}
"""Arguments of `FasterRCNN` and `MaskRCNN` that make them torchvision's."""


class FasterRCNN(Detector):
    """Faster R-CNN with a feature pyramid: proposals on P2 to P6, then classes and boxes of regions of P2 to P5.

    Submodules: `backbone`, `pyramid`, `rpn` and `box_head`. It takes the arguments of `Detector` and those below.

    Args:
      train_candidates, test_candidates: the `candidates` of `select_proposals` in training and otherwise.
      train_proposals, test_proposals: its `proposals`.
      proposal_nms_threshold, proposal_min_side: its `nms_threshold` and `min_side`.
      sampling_ratio, aligned: see `roi_align`.
      level_epsilon: see `map_levels`.
      box_weights, min_side: see `select_from_regions`.
      background_first, box_hidden: see `BoxHead`.

    Call with `(images, sizes=None, train=...)`: normalised images, floating (b, h, w, 3), and the sizes h, w of each
    without padding, integers (b, 2), None for no padding.

    Returns:
      A dict of the outputs of the heads: `objectness` (b, a), `anchor_deltas` (b, a, 4), the proposals `regions`
      (b, k, 4) with their `valid`, bool (b, k), and `class_logits` and `box_deltas`, see `BoxHead`.
      `method="predict"` with `(images, sizes=None, original_sizes=None)` gives `Detections`.

    Raises:
      ValueError: an argument is none of those above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax import Partial
      >>> from attnjax.detection import FasterRCNN
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = FasterRCNN(Partial(ResNet, (1, 1, 1, 1), BasicBlock), num_classes=3, channels=16, box_hidden=32)
      >>> images = jnp.zeros((2, 64, 64, 3))
      >>> found, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, method="predict"))
      >>> found.boxes.shape, found.classes.shape
      ((2, 100, 4), (2, 100))

    References:
      Ren et al., "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid Networks", CVPR 2017.

    Notes:
      Defaults are those of mmdetection's `faster-rcnn_r50_fpn_1x_coco`. torchvision's `fasterrcnn_resnet50_fpn` has
      `RCNN_TORCHVISION` instead.
    """

    anchor_sizes: Sequence[Sequence[float]] = SIZES
    train_candidates: int = 2000
    test_candidates: int = 1000
    train_proposals: int = 1000
    test_proposals: int = 1000
    proposal_nms_threshold: float = 0.7
    proposal_min_side: float = 0.0
    sampling_ratio: int = 0
    aligned: bool = True
    level_epsilon: Literal["inside", "outside"] = "inside"
    box_weights: Sequence[float] = (10.0, 10.0, 5.0, 5.0)
    min_side: float | None = None
    background_first: bool = False
    box_hidden: int = 1024

    first_level: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_choice("level_epsilon", self.level_epsilon, ("inside", "outside"))
        super().__post_init__()

    def setup(self) -> None:
        self._backbone = self._make_backbone()
        self._pyramid = self._pyramid_of(extra="pool")
        anchors = len(self.anchor_sizes[0]) * len(self.anchor_ratios)
        self._rpn = RPNHead(anchors, self.channels, name="rpn", **self._dtypes())
        self._box_head = BoxHead(
            self.num_classes, self.box_hidden, self.background_first, name="box_head", **self._dtypes()
        )

    def __call__(self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool) -> dict[str, jax.Array]:
        sizes = full_sizes(images) if sizes is None else sizes
        maps = self.maps(images, sizes, train=train)
        outputs = self.propose(maps)
        regions, valid = self.proposals(images.shape[1:3], maps, outputs, sizes, train=train)
        return outputs | {"regions": regions, "valid": valid} | self.classify(maps, regions)

    def propose(self, maps: Sequence[jax.Array]) -> dict[str, jax.Array]:
        """The outputs of the region proposal network on the maps of the pyramid."""
        objectness, deltas = self._rpn(maps)
        return widened(objectness=objectness, anchor_deltas=deltas)

    def proposals(
        self,
        image_size: Sequence[int],
        maps: Sequence[jax.Array],
        outputs: dict[str, jax.Array],
        sizes: jax.Array,
        *,
        train: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """The proposals, (b, k, 4), and whether each is valid, bool (b, k); without gradients."""
        objectness, deltas = jax.lax.stop_gradient((outputs["objectness"], outputs["anchor_deltas"]))
        boxes, _, valid = select_proposals(
            objectness,
            deltas,
            jnp.asarray(self.anchors_of(image_size, map_sizes(maps)), deltas.dtype),
            sizes,
            counts=self.anchor_counts(map_sizes(maps)),
            candidates=self.train_candidates if train else self.test_candidates,
            proposals=self.train_proposals if train else self.test_proposals,
            nms_threshold=self.proposal_nms_threshold,
            min_side=self.proposal_min_side,
            clamp_both=self.clamp_both,
        )
        return boxes, valid

    def pool(self, maps: Sequence[jax.Array], regions: jax.Array, size: tuple[int, int]) -> jax.Array:
        """Pools regions (b, k, 4) of the pyramid, (b, k, *size, c)."""
        return multiscale_roi_align(
            maps[: len(ROI_STRIDES)],
            regions,
            size,
            strides=ROI_STRIDES,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
            epsilon=self.level_epsilon,
        )

    def classify(self, maps: Sequence[jax.Array], regions: jax.Array) -> dict[str, jax.Array]:
        """The outputs of the box head in regions (b, k, 4)."""
        logits, deltas = self._box_head(self.pool(maps, regions, (7, 7)))
        return widened(class_logits=logits, box_deltas=deltas)

    def predict(
        self, images: jax.Array, sizes: jax.Array | None = None, original_sizes: jax.Array | None = None
    ) -> Detections:
        """Detects objects.

        Args:
          images: normalised, floating (b, h, w, 3).
          sizes: h, w of each image without padding, integers (b, 2); None for no padding.
          original_sizes: h, w of each image before it was resized, integers (b, 2); None if it was not.
        """
        sizes = full_sizes(images) if sizes is None else sizes
        maps = self.maps(images, sizes, train=False)
        regions, valid = self.proposals(images.shape[1:3], maps, self.propose(maps), sizes, train=False)
        return self.select(maps, regions, valid, self.classify(maps, regions), sizes, original_sizes)

    def select(
        self,
        maps: Sequence[jax.Array],
        regions: jax.Array,
        valid: jax.Array,
        outputs: dict[str, jax.Array],
        sizes: jax.Array,
        original_sizes: jax.Array | None = None,
    ) -> Detections:
        """Detections from the outputs of the box head in regions (b, k, 4)."""
        del maps
        found = select_from_regions(
            outputs["class_logits"],
            outputs["box_deltas"],
            regions,
            valid,
            sizes,
            box_weights=self.box_weights,
            background_first=self.background_first,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            detections=self.max_detections,
            min_side=self.min_side,
            clamp_both=self.clamp_both,
        )
        return detected(found, sizes, original_sizes)


class MaskRCNN(FasterRCNN):
    """Mask R-CNN: Faster R-CNN with a mask of each class in each region.

    Submodules: those of `FasterRCNN` and `mask_head`.

    Args:
      mask_widths, mask_upsample_width: `widths` and `upsample_width` of `MaskHead`.

    The others, the call and its outputs are those of `FasterRCNN`; outputs have `mask_logits` (b, d, 28, 28, m), too,
    of the detections. `method="predict"` gives `Detections` with masks.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax import Partial
      >>> from attnjax.detection import MaskRCNN
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = MaskRCNN(Partial(ResNet, (1, 1, 1, 1), BasicBlock), num_classes=3, channels=16, box_hidden=32,
      ...                  mask_widths=(16,))
      >>> images = jnp.zeros((2, 64, 64, 3))
      >>> found, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, method="predict"))
      >>> found.masks.shape
      (2, 100, 28, 28)

    References:
      He et al., "Mask R-CNN", ICCV 2017.
    """

    mask_widths: Sequence[int] = (256, 256, 256, 256)
    mask_upsample_width: int | None = None

    def setup(self) -> None:
        super().setup()
        self._mask_head = MaskHead(
            self.num_classes + self.background_first,
            self.mask_widths,
            self.mask_upsample_width,
            name="mask_head",
            **self._dtypes(),
        )

    def __call__(self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool) -> dict[str, jax.Array]:
        sizes = full_sizes(images) if sizes is None else sizes
        maps = self.maps(images, sizes, train=train)
        outputs = self.propose(maps)
        regions, valid = self.proposals(images.shape[1:3], maps, outputs, sizes, train=train)
        heads = self.classify(maps, regions)
        boxes = super().select(maps, regions, valid, heads, sizes).boxes
        return outputs | {"regions": regions, "valid": valid, **heads, "mask_logits": self.segment(maps, boxes)}

    def segment(self, maps: Sequence[jax.Array], regions: jax.Array) -> jax.Array:
        """The logits of the masks of all classes in regions (b, k, 4), (b, k, 28, 28, m)."""
        logits = self._mask_head(self.pool(maps, regions, (14, 14)))
        return logits.astype(at_least_float32(logits.dtype))

    def select(self, maps: Sequence[jax.Array], *arguments: Any) -> Detections:
        """Detections with masks from the outputs of the box head, see `FasterRCNN.select`."""
        found = super().select(maps, *arguments)
        logits = self.segment(maps, found.boxes)
        channels = (found.classes + int(self.background_first))[..., None, None, None]
        masks = jax.nn.sigmoid(jnp.take_along_axis(logits, channels, axis=-1)[..., 0])
        valid = jnp.arange(masks.shape[1], dtype=jnp.int32)[None] < found.count[:, None]
        return dataclasses.replace(found, masks=jnp.where(valid[..., None, None], masks, 0))
