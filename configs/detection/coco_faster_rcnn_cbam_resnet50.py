"""Faster R-CNN on CBAM-ResNet-50, COCO 2017, the 1x schedule.

    python -m train coco_faster_rcnn_cbam_resnet50 --workdir runs/coco_faster_rcnn_cbam_resnet50

As coco_faster_rcnn_resnet50.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 28.1 with CBAM's own, older recipe, against 27.0 of its ResNet-50 (recalled).
"""

import dataclasses

from configs.detection.coco_faster_rcnn_resnet50 import config as base

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="faster_rcnn_cbam_resnet50", weights="cbam_resnet50.safetensors")
)
