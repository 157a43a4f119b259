"""RetinaNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from attnjax.detection._detector import Detector, detected, full_sizes, map_sizes, widened
from attnjax.detection._heads import RetinaHead
from attnjax.detection._select import Detections, select_from_anchors

OCTAVES = tuple(tuple(4 * stride * 2 ** (octave / 3) for octave in range(3)) for stride in (8, 16, 32, 64, 128))
"""Sizes of RetinaNet's anchors on P3 to P7: three for each octave from 32 pixels on."""

RETINANET_TORCHVISION = {
    "anchor_sizes": tuple(
        tuple(int(size * 2 ** (octave / 3)) for octave in range(3)) for size in (32, 64, 128, 256, 512)
    ),
    "rounded_anchors": True,
    "anchor_strides": "image",
    "clamp_both": False,
    "extra_from": "output",
    "extra_activation": True,
    "max_detections": 300,
    "min_side": None,
}
"""Arguments of `RetinaNet` that make it torchvision's `retinanet_resnet50_fpn`."""


class RetinaNet(Detector):
    """RetinaNet: classes and boxes of dense anchors on the maps P3 to P7.

    Submodules: `backbone`, `pyramid` and `head`. It takes the arguments of `Detector` and those below.

    Args:
      extra_from, extra_activation: see `FeaturePyramid`.
      prior: see `RetinaHead`.
      candidates, min_side: see `select_from_anchors`.

    Call with `(images, sizes=None, train=...)`: normalised images, floating (b, h, w, 3), and the sizes h, w of each
    without padding, integers (b, 2), None for no padding.

    Returns:
      A dict of `class_logits` (b, k, n) and `box_deltas` (b, k, 4), by map, row, column and anchor.
      `method="predict"` with `(images, sizes=None, original_sizes=None)` gives `Detections`.

    Raises:
      ValueError: an argument is none of those above.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from attnjax import Partial
      >>> from attnjax.detection import RetinaNet
      >>> from attnjax.models import BasicBlock, ResNet
      >>> model = RetinaNet(Partial(ResNet, (1, 1, 1, 1), BasicBlock), num_classes=3, channels=16)
      >>> images = jnp.zeros((2, 64, 64, 3))
      >>> found, _ = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, method="predict"))
      >>> found.boxes.shape, found.classes.shape
      ((2, 100, 4), (2, 100))

    References:
      Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Notes:
      Defaults are those of mmdetection's `retinanet_r50_fpn_1x_coco`. torchvision's `retinanet_resnet50_fpn` has
      `RETINANET_TORCHVISION` instead.
    """

    anchor_sizes: Sequence[Sequence[float]] = OCTAVES
    extra_from: Literal["input", "output"] = "input"
    extra_activation: bool = False
    prior: float = 0.01
    candidates: int = 1000
    min_side: float | None = 0.0

    first_level: ClassVar[int] = 3

    def setup(self) -> None:
        self._backbone = self._make_backbone()
        self._pyramid = self._pyramid_of(
            extra="conv", extra_from=self.extra_from, extra_activation=self.extra_activation
        )
        anchors = len(self.anchor_sizes[0]) * len(self.anchor_ratios)
        self._head = RetinaHead(
            self.num_classes, anchors, self.channels, prior=self.prior, name="head", **self._dtypes()
        )

    def __call__(self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool) -> dict[str, jax.Array]:
        return self.outputs(self.maps(images, sizes, train=train))

    def outputs(self, maps: Sequence[jax.Array]) -> dict[str, jax.Array]:
        """The outputs of the head on the maps of the pyramid."""
        logits, deltas = self._head(maps)
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
        maps = self.maps(images, sizes, train=False)
        return self.select(images, maps, self.outputs(maps), sizes, original_sizes)

    def select(
        self,
        images: jax.Array,
        maps: Sequence[jax.Array],
        outputs: dict[str, jax.Array],
        sizes: jax.Array | None = None,
        original_sizes: jax.Array | None = None,
    ) -> Detections:
        """Detections from the outputs of the head on images (b, h, w, 3), of which the shape alone is used."""
        logits, deltas = outputs["class_logits"], outputs["box_deltas"]
        sizes = full_sizes(images) if sizes is None else sizes
        anchors = jnp.asarray(self.anchors_of(images.shape[1:3], map_sizes(maps)), deltas.dtype)
        found = select_from_anchors(
            logits,
            deltas,
            anchors,
            sizes,
            counts=self.anchor_counts(map_sizes(maps)),
            candidates=self.candidates,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            detections=self.max_detections,
            min_side=self.min_side,
            clamp_both=self.clamp_both,
        )
        return detected(found, sizes, original_sizes)
