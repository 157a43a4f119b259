"""RetinaNet on SE-ResNet-50, COCO 2017, the 1x schedule.

    python -m train coco_retinanet_se_resnet50 --workdir runs/coco_retinanet_se_resnet50

As coco_retinanet_resnet50.

Time: 88,716 steps of 16 images; not measured.
Result, box AP in %: not run; none is published with this recipe.
"""

import dataclasses

from configs.detection.coco_retinanet_resnet50 import config as base

config = dataclasses.replace(
    base, model=dataclasses.replace(base.model, name="retinanet_se_resnet50", weights="se_resnet50.safetensors")
)
