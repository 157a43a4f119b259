"""Mask R-CNN on EPSANet-50 (small), COCO 2017, the 1x schedule.

    python -m train coco_mask_rcnn_epsanet50_small --workdir runs/coco_mask_rcnn_epsanet50_small

As coco_mask_rcnn_resnet50, with EPSANet's rate of 0.01 (recalled).

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 40.0 boxes, 35.9 masks (README of murufeng/EPSANet, read).
"""

import dataclasses

from configs.detection.coco_mask_rcnn_resnet50 import config as base

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="mask_rcnn_epsanet50_small", weights="epsanet50_small.safetensors"),
    optimizer=dataclasses.replace(base.optimizer, learning_rate=0.01),
)
