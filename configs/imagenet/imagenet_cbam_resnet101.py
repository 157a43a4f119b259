"""CBAM-ResNet-101 on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_cbam_resnet101 --workdir runs/imagenet_cbam_resnet101

Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 21.51 / 5.69 (CBAM paper; recalled, not read at its source); 21.65 /
5.94 (README of implus/PytorchInsight, read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="cbam_resnet101"))
