"""What all detectors share: a backbone with a feature pyramid, frozen in part, and anchors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from attnjax._arguments import check_keywords
from attnjax._choice import check_choice
from attnjax.detection._anchors import RATIOS, anchors
from attnjax.detection._pyramid import FeaturePyramid
from attnjax.detection._select import Detections
from attnjax.layers import BatchNorm, at_least_float32, with_defaults

AnchorStrides = Literal["nominal", "image"]


class Detector(nn.Module):
    """A backbone and a feature pyramid; `RetinaNet` and `FasterRCNN` add their heads.

    Submodules: `backbone`, `pyramid` and the heads.

    Args:
      backbone: constructor of a net whose `features` has the maps `stage1`, ..., `stage4` of strides 4 to 32, such as
        `Partial(ResNet, (3, 4, 6, 3))`. It is called with `name`, `num_classes=0` and those of `dtype`, `param_dtype`
        and `norm` that are among its parameters.
      num_classes: n, without background.
      channels: width of the pyramid and of the heads.
      anchor_sizes: of each map, see `base_anchors`.
      anchor_ratios: height over width.
      rounded_anchors: whether anchors are rounded to integers (torchvision) or not (mmdetection).
      anchor_strides: `"nominal"` are powers of two (mmdetection), `"image"` are image size // map size (torchvision).
      clamp_both: see `decode_boxes`.
      score_threshold, nms_threshold, max_detections: see `select_from_anchors`.
      freeze_batch_norm: whether the backbone's batch norm keeps its running statistics in training (mmdetection's
        `norm_eval`, torchvision's `FrozenBatchNorm2d`).
      frozen_stages: the stem and as many stages get no gradient; 0 trains the stem, too. Give the optimizer the net's
        `frozen`, too, so that weight decay does not change them.
      frozen_norms: whether scale and bias of the backbone's norms, those of attention blocks among them, are not
        trained either (torchvision's `FrozenBatchNorm2d`) or are (mmdetection).
      norm: constructor of the backbone's batch norms.
      dtype: compute type. Boxes and scores are computed in float32 or wider.
      param_dtype: type of parameters and statistics.

    Raises:
      ValueError: an argument is none of those above.

    Example:
      >>> from attnjax.detection import Detector, create_detector
      >>> isinstance(create_detector("retinanet_cbam_resnet50"), Detector)
      True

    Notes:
      The pyramid and the box head start from Detectron2's distribution, uniform of variance 1 / fan_in; mmdetection's
      is Xavier's.
    """

    backbone: Callable[..., nn.Module]
    num_classes: int = 80
    channels: int = 256
    anchor_sizes: Sequence[Sequence[float]] = ()
    anchor_ratios: Sequence[float] = RATIOS
    rounded_anchors: bool = False
    anchor_strides: AnchorStrides = "nominal"
    clamp_both: bool = True
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    max_detections: int = 100
    freeze_batch_norm: bool = True
    frozen_stages: int = 1
    frozen_norms: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    first_level: ClassVar[int]

    def __post_init__(self) -> None:
        check_choice("anchor_strides", self.anchor_strides, ("nominal", "image"))
        given = [name for name in ("num_classes", "dropout_rate") if getattr(self.backbone, "keywords", {}).get(name)]
        check_keywords("backbone", self.backbone, given, "its classifier is not used")
        if self.num_classes < 1 or self.frozen_stages not in range(5):
            raise ValueError(
                f"num_classes={self.num_classes} must be at least 1, frozen_stages={self.frozen_stages} from 0 to 4"
            )
        if self.frozen_stages and not self.freeze_batch_norm:
            raise ValueError(f"frozen_stages={self.frozen_stages} needs freeze_batch_norm=True: statistics would move")
        super().__post_init__()

    @nn.nowrap
    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def _make_backbone(self) -> nn.Module:
        return with_defaults(self.backbone, {**self._dtypes(), "num_classes": 0}, norm=self.norm)(name="backbone")

    @nn.nowrap
    def _pyramid_of(self, **options: Any) -> FeaturePyramid:
        return FeaturePyramid(self.channels, self.first_level, name="pyramid", **options, **self._dtypes())

    def maps(self, images: jax.Array, sizes: jax.Array | None = None, *, train: bool) -> list[jax.Array]:
        """The maps of the pyramid, finest first; what lies outside `sizes` is set to 0 before."""
        if sizes is not None:
            images = without_padding(images, sizes)
        stages = self._backbone.features(images, train=train, freeze_batch_norm=self.freeze_batch_norm)
        return self._pyramid([stages[f"stage{level - 1}"] for level in range(self.first_level, 6)])

    @nn.nowrap
    def anchors_of(self, image_size: Sequence[int], map_sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """The anchors of all maps, (k, 4)."""
        strides: list[tuple[float, float]] = [(2**level, 2**level) for level in range(self.first_level, 12)]
        strides = strides[: len(map_sizes)]
        if self.anchor_strides == "image":
            strides = [(image_size[0] // h, image_size[1] // w) for h, w in map_sizes]
        return anchors(map_sizes, strides, self.anchor_sizes, self.anchor_ratios, rounded=self.rounded_anchors)

    @nn.nowrap
    def anchor_counts(self, map_sizes: Sequence[tuple[int, int]]) -> list[int]:
        """The number of anchors of each map."""
        shapes = zip(map_sizes, self.anchor_sizes, strict=True)
        return [h * w * len(sizes) * len(self.anchor_ratios) for (h, w), sizes in shapes]

    @nn.nowrap
    def frozen(self, params: Mapping[str, Any]) -> Any:
        """Which parameters are not trained: a tree of bool like `params`."""
        stages = "".join(map(str, range(1, self.frozen_stages + 1)))
        pattern = re.compile(rf"backbone/(conv\d|bn\d|stage[{stages}]_)" if stages else "(?!)")
        norms = re.compile(r"backbone/.*(bn|norm)\w*/(scale|bias)$" if self.frozen_norms else "(?!)")

        def is_frozen(path: Any, leaf: Any) -> bool:
            name = "/".join(str(key.key) for key in path)
            return bool(pattern.match(name) or norms.match(name))

        return jax.tree_util.tree_map_with_path(is_frozen, params)


def map_sizes(maps: Sequence[jax.Array]) -> list[tuple[int, int]]:
    """Height and width of maps."""
    return [(x.shape[1], x.shape[2]) for x in maps]


def widened(**outputs: jax.Array) -> dict[str, jax.Array]:
    """Outputs of heads by name, in float32 or wider."""
    return {name: output.astype(at_least_float32(output.dtype)) for name, output in outputs.items()}


def without_padding(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """Sets pixels outside the sizes (b, 2) of images (b, h, w, c) to 0."""
    rows, columns = (
        jnp.arange(length, dtype=sizes.dtype)[None] < sizes[:, axis, None]
        for axis, length in enumerate(images.shape[1:3])
    )
    return jnp.where((rows[:, :, None] & columns[:, None])[..., None], images, 0)


def full_sizes(images: jax.Array) -> jax.Array:
    """Height and width of images without padding, (b, 2)."""
    return jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32)[None], (len(images), 2))


def detected(
    found: tuple[jax.Array, jax.Array, jax.Array, jax.Array], sizes: jax.Array, original: jax.Array | None
) -> Detections:
    """Detections with their boxes in the original images, of sizes (b, 2)."""
    boxes, scores, classes, count = found
    scale = jnp.ones(sizes.shape, jnp.float32)
    if original is not None:
        scale = original.astype(jnp.float32) / sizes.astype(jnp.float32)  # of this type in the references, too
    scale = scale.astype(boxes.dtype)[:, None, jnp.array([1, 0, 1, 0])]
    return Detections(boxes, scores, classes, count, boxes * scale)
