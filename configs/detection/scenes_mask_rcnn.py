"""Mask R-CNN with the same backbone without attention, otherwise as in scenes_mask_rcnn_cbam.

    python -m train scenes_mask_rcnn --workdir runs/scenes_mask_rcnn

Time: 2,000 steps of 8 images; not measured.
Result, box AP50 / mask AP50 in %: not run.
"""

import dataclasses

from configs.detection.scenes_mask_rcnn_cbam import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="mask_rcnn_resnet18"))
