"""ResNet-152 on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_resnet152 --workdir runs/imagenet_resnet152

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 22.42 / 6.34 (SE paper; recalled, not read at its source); 22.16 /
6.16 (RAN paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="resnet152"))
