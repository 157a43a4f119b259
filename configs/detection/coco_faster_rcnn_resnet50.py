"""Faster R-CNN on ResNet-50, COCO 2017, the 1x schedule.

    python -m train coco_faster_rcnn_resnet50 --workdir runs/coco_faster_rcnn_resnet50

As coco_retinanet_resnet50, with a rate of 0.02.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 37.9 (detectron2's R50-FPN 1x, quote).
"""

import dataclasses

from configs.detection.coco_retinanet_resnet50 import config as base

config = dataclasses.replace(
    base,
    model=dataclasses.replace(base.model, name="faster_rcnn_resnet50"),
    optimizer=dataclasses.replace(base.optimizer, learning_rate=0.02),
)
