"""ResNet-34 on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_resnet34 --workdir runs/imagenet_resnet34

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 26.69 / 8.60 (CBAM paper; recalled, not read at its source).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="resnet34"))
