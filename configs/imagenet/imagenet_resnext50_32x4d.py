"""ResNeXt-50 (32x4d) on ImageNet-1K, otherwise as in imagenet_resnet50.

    python -m train imagenet_resnext50_32x4d --workdir runs/imagenet_resnext50_32x4d

The CBAM paper trained this net without releasing its code; the recipe is that of the released ResNets.
Time: 500,456 steps of 256 images; not measured, docs/results/aot_table.md bounds the images per second.
Result, top-1 / top-5 error in % of one 224 crop: 22.85 / 6.48 (CBAM paper; recalled, not read at its source); 22.11 /
5.90 (SE paper; recalled, not read at its source); 22.23 top-1 (README of implus/SKNet, read).
"""

import dataclasses

from configs.imagenet.imagenet_resnet50 import config as base

config = dataclasses.replace(base, model=dataclasses.replace(base.model, name="resnext50_32x4d"))
