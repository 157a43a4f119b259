"""Named detectors: a kind of detector and a named backbone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from attnjax._choice import nearest
from attnjax.detection._detector import Detector
from attnjax.detection._rcnn import FasterRCNN, MaskRCNN
from attnjax.detection._retinanet import RetinaNet
from attnjax.models import ResNet, list_models, model_constructor

DETECTOR_KINDS: dict[str, Any] = {"retinanet": RetinaNet, "faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}
"""What the names of detectors start with, before the name of the backbone."""


def create_detector(name: str, **arguments: Any) -> Detector:
    """Builds a detector by the name of its kind and its backbone, such as `"mask_rcnn_cbam_resnet50"`.

    Args:
      name: one of `DETECTOR_KINDS`, `_` and a named net, see `list_detectors`.
      **arguments: arguments of the detector, such as `num_classes` or `dtype`, see `RetinaNet` and `FasterRCNN`.
        A mapping as `backbone` changes arguments of the backbone, as in `attnjax.create_model`.

    Returns:
      A Linen module. Make its variables with `attnjax.init`.

    Raises:
      ValueError: the kind, the backbone or an argument is unknown, or the net cannot be a backbone.

    Example:
      >>> import attnjax
      >>> from attnjax.detection import create_detector
      >>> model = create_detector("retinanet_epsanet50_small", num_classes=80)
      >>> attnjax.count_parameters(model, (1, 64, 64, 3))
      34973375
    """
    kind = next((kind for kind in DETECTOR_KINDS if name.startswith(f"{kind}_")), None)
    backbone = name.removeprefix(f"{kind}_")
    if kind is None or backbone not in _backbones():
        near = nearest(name, list_detectors(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"kinds are {', '.join(DETECTOR_KINDS)}"
        raise ValueError(f"unknown detector {name!r}: {hint}")
    changes = arguments.pop("backbone", {})
    if not isinstance(changes, Mapping):
        raise ValueError(f"backbone={changes!r} must be a mapping of arguments of {backbone}")
    fields = [field.name for field in dataclasses.fields(DETECTOR_KINDS[kind]) if field.name not in ("parent", "name")]
    for argument in arguments:
        if argument not in fields:
            near = nearest(argument, fields)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(fields)}"
            raise ValueError(f"unknown argument {argument!r} of {name!r}: {hint}")
    detector: Detector = DETECTOR_KINDS[kind](model_constructor(backbone, num_classes=0, **changes), **arguments)
    return detector


def list_detectors() -> list[str]:
    """Lists the named detectors.

    Example:
      >>> from attnjax.detection import list_detectors
      >>> "faster_rcnn_bam_resnet50" in list_detectors()
      True
    """
    return [f"{kind}_{backbone}" for kind in DETECTOR_KINDS for backbone in _backbones()]


def _backbones() -> list[str]:
    """The ResNets of four stages whose first map has stride 4."""
    return [name for name in list_models() if _is_backbone(model_constructor(name))]


def _is_backbone(constructor: Any) -> bool:
    options = constructor.keywords
    block = options.get("block")
    return (
        constructor.func is ResNet
        and len(options["stage_sizes"]) == 4
        and options.get("stem") != "cifar"
        and not getattr(getattr(block, "func", block), "pre_activation", False)
    )
