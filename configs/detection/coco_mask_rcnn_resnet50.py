"""Mask R-CNN on ResNet-50, COCO 2017, the 1x schedule.

    python -m train coco_mask_rcnn_resnet50 --workdir runs/coco_mask_rcnn_resnet50

As coco_retinanet_resnet50, with a rate of 0.02. Of several boxes that overlap a region enough, the one whose best
region it is takes it.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 38.6 boxes, 35.2 masks (detectron2's R50-FPN 1x, quote).
"""

import dataclasses

from configs.detection.coco_retinanet_resnet50 import config as base
from train.config import DetectionConfig

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="mask_rcnn_resnet50"),
    detection=DetectionConfig(loss={"region_low_quality": "asking"}),
    optimizer=dataclasses.replace(base.optimizer, learning_rate=0.02),
)
