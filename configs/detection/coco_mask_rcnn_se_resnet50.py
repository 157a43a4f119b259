"""Mask R-CNN on SE-ResNet-50, COCO 2017, the 1x schedule.

    python -m train coco_mask_rcnn_se_resnet50 --workdir runs/coco_mask_rcnn_se_resnet50

As coco_mask_rcnn_resnet50.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 38.7 boxes, 35.4 masks (EPSANet's table, quote).
"""

import dataclasses

from configs.detection.coco_mask_rcnn_resnet50 import config as base

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="mask_rcnn_se_resnet50", weights="se_resnet50.safetensors")
)
