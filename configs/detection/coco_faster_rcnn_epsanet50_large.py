"""Faster R-CNN on EPSANet-50 (large), COCO 2017, the 1x schedule.

    python -m train coco_faster_rcnn_epsanet50_large --workdir runs/coco_faster_rcnn_epsanet50_large

As coco_faster_rcnn_epsanet50_small.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 40.9 (README of murufeng/EPSANet, read).
"""

import dataclasses

from configs.detection.coco_faster_rcnn_epsanet50_small import config as base

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="faster_rcnn_epsanet50_large", weights="epsanet50_large.safetensors"),
)
