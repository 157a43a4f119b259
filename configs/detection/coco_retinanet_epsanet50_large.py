"""RetinaNet on EPSANet-50 (large), COCO 2017, the 1x schedule.

    python -m train coco_retinanet_epsanet50_large --workdir runs/coco_retinanet_epsanet50_large

As coco_retinanet_resnet50.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; expected 39.6 (README of murufeng/EPSANet, read).
"""

import dataclasses

from configs.detection.coco_retinanet_resnet50 import config as base

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="retinanet_epsanet50_large", weights="epsanet50_large.safetensors")
)
